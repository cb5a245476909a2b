// One run: its weights, and the loop over the batches of an epoch.
#pragma once

#include <utility>
#include <vector>

#include "layer.hpp"
#include "losses.hpp"
#include "passes_of.hpp"

namespace vbx {

class Trainer {  // of either precision
 public:
  virtual ~Trainer() = default;
  virtual void train(const VbxSplit&, const int64_t* order, long steps_before, const uint32_t* words) = 0;
  virtual void predict(const VbxSplit&, void* const* outputs) = 0;
  virtual void numbers(void*) const = 0;
};

template <class T> class Run final : public Trainer {
 public:
  Run(const VbxRun& run, const VbxLayer* layers, const VbxTask* tasks, const T* numbers);
  void train(const VbxSplit&, const int64_t* order, long steps_before, const uint32_t* words) override;
  void predict(const VbxSplit&, void* const* outputs) override;
  void numbers(void* to) const override { const_cast<Run*>(this)->copy(static_cast<T*>(to), false); }

 private:
  static constexpr long kPredicted = 32;  // rows predicted at once

  struct Batch {  // what is held of one batch
    std::vector<Held<T>> held;
    Tiles<T> x;
  };

  void lay_out();
  void copy(T* numbers, bool in);
  void copy_vector(T* numbers, long size, const Vector<T>& vector, bool in) const;
  Batch make_batch(long rows) const;
  void gather(Tiles<T>& x, const VbxSplit&, const int64_t* order, long begin) const;
  void prefetch(const VbxSplit&, const int64_t* order, long begin) const;
  void forward_vectors(Batch& batch, const Passes<T>& passes) const;
  void forward_all(Batch& batch, const Passes<T>& passes, const uint32_t* words) const;
  void compute_losses(const VbxSplit&, const int64_t* rows, long count, const Step<T>& step);
  void backward(const Step<T>& step, bool more);
  void backward_layer(long i, const Step<T>& step, bool more);
  Pace pace(double lr, double number) const { return {lr, run_.weight_decay, run_.momentum, number}; }
  const Tiles<T>& output(const Batch& batch, const VbxTask& task) const {
    const Held<T>& held = batch.held[std::size_t(task.layer)];
    return task.sigmoid ? held.value : held.sums;
  }

  VbxRun run_;
  std::vector<Layer<T>> layers_;
  std::vector<VbxTask> tasks_;
  Array<T> weight_, first_, second_;  // of all layers
  Vector<T> log_variance_;
  Array<T> d_log_variance_, d_vectors_[3];
  Passes<T> passes_, predicting_;
  Batch batch_, predicted_;
  Tiles<T> next_;
  Dropout dropout_;
};

template <class T>
Run<T>::Run(const VbxRun& run, const VbxLayer* layers, const VbxTask* tasks, const T* numbers)
    : run_(run), tasks_(tasks, tasks + run.tasks), dropout_{run.dropout, run.dropout_key} {
  long widest = 1;
  for (long i = 0; i < run.layers; i++) {
    Layer<T> layer;
    layer.spec = layers[i];
    layer.panels.depth = layers[i].width_in;
    layer.panels.width = layers[i].width_out;
    layer.panels.count = round_up(layers[i].width_out, kLanes<T>) / kLanes<T>;
    layer.there = Array<T>(layer.padded());
    for (long j = 0; j < layers[i].width_out; j++) layer.there[j] = T(1);
    widest = std::max(widest, layer.padded());
    layers_.push_back(std::move(layer));
  }
  for (Array<T>& d : d_vectors_) d = Array<T>(widest);
  d_log_variance_ = Array<T>(round_up(run.tasks, kLanes<T>));
  lay_out();
  copy(const_cast<T*>(numbers), true);
  const long rows = pad_rows(run.batch);
  passes_ = pick_passes<T>(rows, Rule(run.rule), Activation(run.activation));
  predicting_ = pick_passes<T>(kPredicted, Rule(run.rule), Activation(run.activation));
  batch_ = make_batch(rows);
  predicted_ = make_batch(kPredicted);
  next_ = Tiles<T>(rows, layers_[0].spec.width_in);
}

// Give every weight its place, twice: to learn how many there are, then to point at them.
template <class T> void Run<T>::lay_out() {
  for (bool there : {false, true}) {
    long place = 0;
    const auto take = [&](long size, auto& to) {
      if (there) {
        to.weight = weight_.get() + place;
        to.first = first_.get() + place;
        to.second = second_.get() + place;
      }
      place += round_up(size, 64 / long(sizeof(T)));
    };
    for (Layer<T>& layer : layers_) {
      take(layer.panels.size(), layer.panels);
      take(layer.padded(), layer.bias);
      take(layer.padded(), layer.gain);
      take(layer.padded(), layer.shift);
    }
    take(round_up(run_.tasks, kLanes<T>), log_variance_);
    if (!there) weight_ = Array<T>(place), first_ = Array<T>(place), second_ = Array<T>(place);
  }
}

template <class T> void Run<T>::copy_vector(T* numbers, long size, const Vector<T>& vector, bool in) const {
  for (long j = 0; j < size; j++) in ? void(vector.weight[j] = numbers[j]) : void(numbers[j] = vector.weight[j]);
}

// Weights from the layout of the stack into panels, or back.
template <class T> void Run<T>::copy(T* numbers, bool in) {
  constexpr long L = kLanes<T>;
  for (const Layer<T>& layer : layers_) {
    const VbxLayer& spec = layer.spec;
    for (long k = 0; k < spec.width_in; k++)
      for (long j = 0; j < spec.width_out; j++) {
        T& outside = numbers[spec.weight + k * spec.stride + j];
        T& inside = layer.panels.weight[layer.panels.place(j / L, k) + j % L];
        in ? void(inside = outside) : void(outside = inside);
      }
    copy_vector(numbers + spec.bias, spec.width_out, layer.bias, in);
    if (!layer.norm()) continue;
    copy_vector(numbers + spec.gain, spec.width_out, layer.gain, in);
    copy_vector(numbers + spec.shift, spec.width_out, layer.shift, in);
  }
  if (run_.log_variance >= 0) copy_vector(numbers + run_.log_variance, run_.tasks, log_variance_, in);
}

template <class T> typename Run<T>::Batch Run<T>::make_batch(long rows) const {
  Batch batch;
  for (const Layer<T>& layer : layers_) batch.held.emplace_back(rows, layer.padded());
  batch.x = Tiles<T>(rows, layers_[0].spec.width_in);
  return batch;
}

template <class T>
void Run<T>::gather(Tiles<T>& x, const VbxSplit& split, const int64_t* order, long begin) const {
  const long columns = layers_[0].spec.width_in, count = std::min<long>(run_.batch, split.rows - begin);
  for (long row = 0; row < count; row++)
    put_row(x, row, static_cast<const T*>(split.x) + order[begin + row] * split.stride, columns);
  const Array<T> nothing(count < x.rows ? columns : 0);
  for (long row = count; row < x.rows; row++) put_row(x, row, nothing.get(), columns);
}

// Ask for the rows of a later batch: they lie anywhere in memory.
template <class T> void Run<T>::prefetch(const VbxSplit& split, const int64_t* order, long begin) const {
  const long bytes = layers_[0].spec.width_in * long(sizeof(T));
  for (long i = begin; i < std::min<long>(begin + run_.batch, split.rows); i++) {
    const char* row = reinterpret_cast<const char*>(static_cast<const T*>(split.x) + order[i] * split.stride);
    for (long at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
  }
}

template <class T>
void Run<T>::train(const VbxSplit& split, const int64_t* order, long steps_before, const uint32_t* words) {
  const FlushTiny flush;
  const long steps = (split.rows + run_.batch - 1) / run_.batch;
  gather(batch_.x, split, order, 0);
  forward_vectors(batch_, passes_);
  for (long i = 0; i < steps; i++) {
    const bool more = i + 1 < steps;
    const long begin = i * run_.batch;
    if (more) gather(next_, split, order, begin + run_.batch);
    const Step<T> step(Rule(run_.rule), pace(run_.lr, double(steps_before + i + 1)));
    forward_all(batch_, passes_, words ? words + i * run_.layers : nullptr);
    compute_losses(split, order + begin, std::min<long>(run_.batch, split.rows - begin), step);
    prefetch(split, order, begin + 2 * run_.batch);
    backward(step, more);
    if (run_.log_variance >= 0) {
      const Step<T> own(Rule(run_.rule), pace(run_.uncertainty_lr, double(steps_before + i + 1)));
      passes_.move_vector(log_variance_, d_log_variance_.get(), d_log_variance_.size(), own);
    }
    std::swap(batch_.x, next_);
  }
}

// Sums of the layers that see the vectors; in training, all but an epoch's first come out of `learn`.
template <class T> void Run<T>::forward_vectors(Batch& batch, const Passes<T>& passes) const {
  for (std::size_t i = 0; i < layers_.size(); i++) {
    if (layers_[i].spec.source >= 0) continue;
    begin_sums(layers_[i], batch.held[i].sums);
    passes.forward(batch.x, layers_[i].panels, batch.held[i].sums);
  }
}

template <class T>
void Run<T>::forward_all(Batch& batch, const Passes<T>& passes, const uint32_t* words) const {
  for (std::size_t i = 0; i < layers_.size(); i++) {
    const Layer<T>& layer = layers_[i];
    Held<T>& held = batch.held[i];
    if (layer.spec.source >= 0) {
      begin_sums(layer, held.sums);
      passes.forward(batch.held[std::size_t(layer.spec.source)].value, layer.panels, held.sums);
    }
    if (layer.spec.active) passes.activate(layer, held, dropout_, words ? words + i : nullptr);
  }
  for (const VbxTask& task : tasks_)
    if (task.sigmoid) apply_sigmoid(layers_[std::size_t(task.layer)], batch.held[std::size_t(task.layer)]);
}

template <class T>
void Run<T>::compute_losses(const VbxSplit& split, const int64_t* rows, long count, const Step<T>& step) {
  for (std::size_t t = 0; t < tasks_.size(); t++) {
    const VbxTask& task = tasks_[t];
    Held<T>& held = batch_.held[std::size_t(task.layer)];
    held.d.clear();
    const double s = run_.log_variance >= 0 ? double(log_variance_.weight[t]) : 0;
    const double weight = run_.log_variance >= 0 ? 0.5 * std::exp(-s) : task.weight;
    const vbx::Batch<T> batch{task, rows, count, split.truth[t], split.weight[t], output(batch_, task), held.d};
    const double loss = task_loss(batch, layers_[std::size_t(task.layer)].spec.width_out, weight * step.gradient);
    d_log_variance_[long(t)] = T(step.gradient * (0.5 - weight * loss));
    if (task.sigmoid) unwind_sigmoid(layers_[std::size_t(task.layer)], held);
  }
}

template <class T> void Run<T>::backward(const Step<T>& step, bool more) {
  for (std::size_t i = 0; i < layers_.size(); i++)
    if (layers_[i].spec.active) batch_.held[i].d.clear();
  for (long i = long(layers_.size()) - 1; i >= 0; i--) backward_layer(i, step, more);
}

template <class T> void Run<T>::backward_layer(long i, const Step<T>& step, bool more) {
  Layer<T>& layer = layers_[std::size_t(i)];
  Held<T>& held = batch_.held[std::size_t(i)];
  auto& [d_bias, d_gain, d_shift] = d_vectors_;
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
  if (layer.spec.source >= 0) {
    Held<T>& below = batch_.held[std::size_t(layer.spec.source)];
    turn(layer, held);
    passes_.inputs(held.turned.get(), layer.panels, below.d);
    passes_.learn(below.value, nullptr, held.d, layer.panels, step, held.sums);
  } else if (more) {
    begin_sums(layer, held.sums);
    passes_.learn_and_go_on(batch_.x, &next_, held.d, layer.panels, step, held.sums);
  } else {
    passes_.learn(batch_.x, nullptr, held.d, layer.panels, step, held.sums);
  }
}

template <class T> void Run<T>::predict(const VbxSplit& split, void* const* outputs) {
  const FlushTiny flush;
  const long columns = layers_[0].spec.width_in;
  for (long begin = 0; begin < split.rows; begin += kPredicted) {
    const long count = std::min<long>(kPredicted, split.rows - begin);
    for (long row = 0; row < count; row++)
      put_row(predicted_.x, row, static_cast<const T*>(split.x) + (begin + row) * split.stride, columns);
    forward_vectors(predicted_, predicting_);
    forward_all(predicted_, predicting_, nullptr);
    for (std::size_t t = 0; t < tasks_.size(); t++) {
      const long width = layers_[std::size_t(tasks_[t].layer)].spec.width_out;
      for (long row = 0; row < count; row++)
        take_row(output(predicted_, tasks_[t]), row, static_cast<T*>(outputs[t]) + (begin + row) * width, width);
    }
  }
}

}  // namespace vbx
