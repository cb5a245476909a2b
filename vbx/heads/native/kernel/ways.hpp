// The ways of a batch through a run: forward from the vectors to what each task says, and back.
#pragma once

#include "trainer.hpp"

namespace vbx {

// Sums of the layers that see the vectors; in training, all but an epoch's first come out of `learn`.
template <class T>
void Run<T>::forward_vectors(Batch& batch, const Passes<T>& passes, Feed<T>& feed) const {
  for (std::size_t i = 0; i < layers_.size(); i++) {
    if (layers_[i].spec.source != -1) continue;
    begin_sums(layers_[i], batch.held[i].sums);
    passes.forward(feed.x, &feed, layers_[i].panels, batch.held[i].sums);
    feed.filled = true;
  }
}

template <class T>
void Run<T>::forward_all(Batch& batch, const Passes<T>& passes, const uint32_t* words) const {
  bool said = false;
  for (std::size_t i = 0; i < layers_.size(); i++) {
    const Layer<T>& layer = layers_[i];
    Held<T>& held = batch.held[i];
    if (layer.spec.source == -2 && !std::exchange(said, true)) forward_said(batch);
    if (layer.spec.source != -1) {
      begin_sums(layer, held.sums);
      passes.forward(fed_by(batch, layer).value, nullptr, layer.panels, held.sums);
    }
    if (layer.spec.active) passes.activate(layer, held, dropout_, words ? words + i : nullptr);
    if (layer.sigmoid) apply_sigmoid(layer, held);
  }
}

template <class T> void Run<T>::forward_said(Batch& batch) const {
  long begin = 0;
  for (const VbxTask& task : tasks_) {
    if (!task.main) continue;
    const long width = last_layer(task).spec.width_out;
    say(task, output(batch, task), batch.said.value, begin, width);
    begin += width;
  }
}

// Layers from the last to the first. Discriminators' come last, so that the main tasks know all when it is their turn.
template <class T> void Run<T>::backward(const Steps& steps, const VbxShare* shares, bool more) {
  for (std::size_t i = 0; i < layers_.size(); i++)
    if (layers_[i].spec.active) batch_.held[i].d.clear();
  if (said_) batch_.said.d.clear();
  for (long i = long(layers_.size()) - 1; i >= 0; i--) {
    Layer<T>& layer = layers_[std::size_t(i)];
    if (said_ && !layer.spec.judges && layers_[std::size_t(i + 1)].spec.judges) backward_said();
    backward_layer(layer, batch_.held[std::size_t(i)], steps.of(layer));
    learn_layer(i, steps.of(layer), layer.task < 0 ? T(1) : T(shares[layer.task].back), more);
  }
}

template <class T> void Run<T>::backward_said() {
  long begin = 0;
  for (const VbxTask& task : tasks_) {
    if (!task.main) continue;
    const long width = last_layer(task).spec.width_out;
    unwind_said(task, batch_.said, begin, width, batch_.held[std::size_t(task.layer)].d);
    begin += width;
  }
}

// Through what follows a layer's linear part, whose vectors learn.
template <class T> void Run<T>::backward_layer(Layer<T>& layer, Held<T>& held, const Step<T>& step) {
  auto& [d_bias, d_gain, d_shift] = d_vectors_;
  if (layer.sigmoid) unwind_sigmoid(layer, held);
  if (layer.spec.active) {
    if (layer.norm())
      for (Array<T>* d : {&d_gain, &d_shift}) std::memset(d->get(), 0, std::size_t(d->size()) * sizeof(T));
    unwind_layer(layer, held, d_gain.get(), d_shift.get());
  }
  sum_rows(layer, held.d, d_bias.get());
  passes_.move_vector(layer.bias, d_bias.get(), layer.padded(), step);
  if (layer.norm()) {
    passes_.move_vector(layer.gain, d_gain.get(), layer.padded(), step);
    passes_.move_vector(layer.shift, d_shift.get(), layer.padded(), step);
  }
}

// Through the linear part: `back` times the gradient goes to what feeds it, and its weights learn.
template <class T> void Run<T>::learn_layer(long i, const Step<T>& step, T back, bool more) {
  Layer<T>& layer = layers_[std::size_t(i)];
  Held<T>& held = batch_.held[std::size_t(i)];
  if (layer.spec.source != -1) {
    const auto [value, d] = fed_by(batch_, layer);
    turn(layer, held, back);
    passes_.inputs(held.turned.get(), layer.panels, d);
    passes_.learn(value, nullptr, held.d, layer.panels, step, held.sums);
  } else if (more) {
    begin_sums(layer, held.sums);
    passes_.learn_and_go_on(batch_.x, &feed_, held.d, layer.panels, step, held.sums);
    feed_.filled = true;
  } else {
    passes_.learn(batch_.x, nullptr, held.d, layer.panels, step, held.sums);
  }
}

}  // namespace vbx
