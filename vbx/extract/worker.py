"""A worker process: takes items, sends answers, until its connection is closed. It may die without costing the run."""

import pickle
import signal
from multiprocessing.connection import Connection
from typing import Any

from vbx.errors import VbxError
from vbx.extract.encoder import Encoder, Output, load_encoder
from vbx.extract.work import Item, Order, do_item


def send(connection: Connection, value: Any) -> None:
    """Send a value; arrays go beside it, without a copy."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    connection.send_bytes(len(buffers).to_bytes(4, "little") + head)
    for buffer in buffers:
        connection.send_bytes(buffer.raw())


def receive(connection: Connection) -> Any:
    """Receive what `send` sent; both ends are processes of one run, so the pickle is our own.

    Raises:
        EOFError: if the other process is gone
    """
    head = connection.recv_bytes()
    buffers = [connection.recv_bytes() for _ in range(int.from_bytes(head[:4], "little"))]
    return pickle.loads(head[4:], buffers=buffers)


def describe(encoder: Encoder) -> tuple[tuple[Output, ...], float]:
    """What the run needs to know of an encoder that it does not load itself: outputs and speed."""
    return encoder.outputs, encoder.speed


def load_here(orders: tuple[Order, ...]) -> dict[int, Encoder]:
    """The encoders that run where the audio is read."""
    return {i: load_encoder(o.spec, o.checkpoint, "cpu") for i, o in enumerate(orders) if o.in_worker}


def serve(handle: int) -> None:
    """Serve until the other end is closed.

    Args:
        handle: file descriptor of a socket; over it come the orders once, then tuples of items
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run says when to stop
    with Connection(handle) as connection:
        try:
            orders: tuple[Order, ...] = receive(connection)
            try:
                encoders = load_here(orders)
            except VbxError as error:
                send(connection, error)
                return
            send(connection, {i: describe(encoder) for i, encoder in encoders.items()})
            while True:
                items: tuple[Item, ...] = receive(connection)
                send(connection, [do_item(item, orders, encoders) for item in items])
        except (EOFError, ConnectionError):
            return
