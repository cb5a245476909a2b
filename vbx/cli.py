"""The command line: every command is a verb of the library, parsed, called and printed."""

import sys

import typer

from vbx.commands import cache, demo, extract, heads, look
from vbx.errors import VbxError

app = typer.Typer(
    name="vbx",
    help="Extract once, ablate thousands of times: cached speech features, multitask heads.",
    epilog="Begin with `vbx demo`; then `vbx extract CORPUS` and `vbx heads train -f egemaps` on your own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("extract")(extract.extract)
app.add_typer(heads.app, name="heads")
app.add_typer(cache.app, name="cache")
app.command("audit")(cache.audit)
app.command("list")(look.list_)
app.command("show")(look.show)
app.command("doctor")(look.doctor)


def main() -> None:
    """Run a command. Exit code 0 done, 1 an error told in one sentence, 2 wrong usage."""
    try:
        app()
    except VbxError as error:
        print(f"vbx: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output has gone, as in `vbx ... | head`
        sys.stderr.close()
        sys.exit(1)
