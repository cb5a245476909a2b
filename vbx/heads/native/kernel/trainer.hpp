// One run: its weights, and the loop over the batches of an epoch.
#pragma once

#include <utility>
#include <vector>

#include "losses.hpp"
#include "passes_of.hpp"
#include "said.hpp"
#include "weighing.hpp"
#include "weights.hpp"

namespace vbx {

struct Epoch {
  const int64_t* order;
  long steps_before;
  const uint32_t* words;  // of each step and layer, for dropout; null without
};

class Trainer {  // of either precision
 public:
  virtual ~Trainer() = default;
  virtual void train(const VbxSplit&, const VbxShare*, const Epoch&) = 0;
  virtual void predict(const VbxSplit&, void* const* outputs) = 0;
  virtual void numbers(void*) = 0;
};

template <class T> class Run final : public Trainer {
 public:
  Run(const VbxRun& run, const VbxLayer* layers, const VbxTask* tasks, const T* numbers);
  void train(const VbxSplit&, const VbxShare* shares, const Epoch& epoch) override;
  void predict(const VbxSplit&, void* const* outputs) override;
  void numbers(void* to) override { copy(static_cast<T*>(to), false); }

 private:
  struct Batch {  // what is held of one batch
    std::vector<Held<T>> held;
    Tiles<T> x;
    Said<T> said;
  };
  struct Steps {  // of the discriminators' layers, of all others
    Step<T> judging, plain;
    const Step<T>& of(const Layer<T>& layer) const { return layer.spec.judges ? judging : plain; }
  };

  struct Fed {  // what feeds a layer: values, and where their gradient goes
    const Tiles<T>&value, &d;
  };

  void copy(T* numbers, bool in);
  Batch make_batch(long rows) const;
  void forward_vectors(Batch& batch, const Passes<T>& passes, Feed<T>& feed) const;
  void forward_all(Batch& batch, const Passes<T>& passes, const uint32_t* words) const;
  void forward_said(Batch& batch) const;
  void compute_losses(const VbxSplit&, const VbxShare*, const int64_t* rows, long count);
  void learn_weighing(const VbxShare*, const std::vector<double>& losses);
  void backward(const Steps& steps, const VbxShare* shares, bool more);
  void backward_said();
  void backward_layer(Layer<T>& layer, Held<T>& held, const Step<T>& step);
  void learn_layer(long i, const Step<T>& step, T back, bool more);
  Step<T> step_at(double lr, long number) const {
    return {Rule(run_.rule), {lr, run_.weight_decay, run_.momentum, number}};
  }
  Fed fed_by(const Batch& batch, const Layer<T>& layer) const {
    if (layer.spec.source == -2) return {batch.said.value, batch.said.d};
    const Held<T>& below = batch.held[std::size_t(layer.spec.source)];
    return {below.value, below.d};
  }
  const Layer<T>& last_layer(const VbxTask& task) const { return layers_[std::size_t(task.layer)]; }
  const Tiles<T>& output(const Batch& batch, const VbxTask& task) const {
    const Held<T>& held = batch.held[std::size_t(task.layer)];
    return task.sigmoid ? held.value : held.sums;
  }

  VbxRun run_;
  std::vector<Layer<T>> layers_;
  std::vector<VbxTask> tasks_;
  Weights<T> weights_;
  Vector<T> weighers_;
  Weighing weighing_;
  Array<T> d_weighers_, d_vectors_[3];
  double gradient_ = 1;  // what losses are multiplied by before they are differentiated
  long said_ = 0;        // columns that discriminators see, 0 if there are none
  Passes<T> passes_, predicting_;
  Batch batch_, predicted_;
  Feed<T> feed_;
  Labels labels_;
  Dropout dropout_;
};

template <class T>
Run<T>::Run(const VbxRun& run, const VbxLayer* layers, const VbxTask* tasks, const T* numbers)
    : run_(run), tasks_(tasks, tasks + run.tasks), dropout_{run.dropout, run.dropout_key} {
  long widest = 1, mains = 0;
  for (long i = 0; i < run.layers; i++) {
    layers_.push_back(make_layer<T>(layers[i]));
    widest = std::max(widest, layers_.back().padded());
    if (layers[i].source == -2) said_ = layers[i].width_in;
  }
  for (std::size_t t = 0; t < tasks_.size(); t++) {
    layers_[std::size_t(tasks_[t].first)].task = long(t);
    layers_[std::size_t(tasks_[t].layer)].sigmoid = tasks_[t].sigmoid;
    mains += tasks_[t].main;
  }
  for (Array<T>& d : d_vectors_) d = Array<T>(widest);
  d_weighers_ = Array<T>(round_up(mains, kLanes<T>));
  weighing_ = Weighing(run.weighting, mains);
  weights_ = Weights<T>(layers_, weighers_, mains);
  copy(const_cast<T*>(numbers), true);
  const long rows = pad_rows(run.batch);
  passes_ = pick_passes<T>(rows, Rule(run.rule), Activation(run.activation));
  predicting_ = pick_predicting<T>(Activation(run.activation));
  batch_ = make_batch(rows);
  predicted_ = make_batch(kPredicted);
  feed_ = Feed<T>(rows, layers_[0].spec.width_in);
}

template <class T> void Run<T>::copy(T* numbers, bool in) {
  for (const Layer<T>& layer : layers_) copy_layer(numbers, layer, in);
  long mains = 0;
  for (const VbxTask& task : tasks_) mains += task.main;
  if (run_.weighers >= 0) copy_vector(numbers + run_.weighers, mains, weighers_, in);
}

template <class T> typename Run<T>::Batch Run<T>::make_batch(long rows) const {
  Batch batch;
  for (const Layer<T>& layer : layers_) batch.held.emplace_back(rows, layer.padded());
  batch.x = Tiles<T>(rows, layers_[0].spec.width_in);
  batch.said = {Tiles<T>(rows, said_), Tiles<T>(rows, said_)};
  return batch;
}

template <class T> void Run<T>::train(const VbxSplit& split, const VbxShare* shares, const Epoch& epoch) {
  const FlushTiny flush;
  const long steps = (split.rows + run_.batch - 1) / run_.batch;
  feed_.point(split, epoch.order, 0, run_.batch);
  forward_vectors(batch_, passes_, feed_);
  for (long i = 0; i < steps; i++) {
    const long begin = i * run_.batch, count = std::min<long>(run_.batch, split.rows - begin);
    const long number = epoch.steps_before + i + 1;
    const Steps step{step_at(run_.discriminator_lr, number), step_at(run_.lr, number)};
    gradient_ = step.plain.gradient;
    std::swap(batch_.x, feed_.x);
    for (std::size_t t = 0; t < tasks_.size(); t++)
      prefetch_labels<T>(split, tasks_[t], long(t), epoch.order + begin, count);
    feed_.point(split, epoch.order, begin + run_.batch, run_.batch);
    forward_all(batch_, passes_, epoch.words ? epoch.words + i * run_.layers : nullptr);
    compute_losses(split, shares, epoch.order + begin, count);
    backward(step, shares, i + 1 < steps);
    if (run_.weighers >= 0)
      passes_.move_vector(weighers_, d_weighers_.get(), d_weighers_.size(), step_at(run_.uncertainty_lr, number));
    if (run_.rule != kSgd && number % kStretchSteps == 0)
      shrink_moments(weights_.first.get(), weights_.second.get(), weights_.first.size());
  }
}

template <class T>
void Run<T>::compute_losses(const VbxSplit& split, const VbxShare* shares, const int64_t* rows, long count) {
  std::vector<double> losses;  // of the main tasks
  weighing_.begin(weighers_.weight);
  for (std::size_t t = 0; t < tasks_.size(); t++) {
    const VbxTask& task = tasks_[t];
    const Tiles<T>& d = batch_.held[std::size_t(task.layer)].d;
    d.clear();
    read_labels(split, task, long(t), rows, count, output(batch_, task), labels_);
    const long k = long(losses.size());
    const double factor = task.main ? weighing_.factor(k, double(weighers_.weight[k])) : 1.0;
    const vbx::Batch<T> batch{task, labels_, count, output(batch_, task), d};
    const double loss = task_loss(batch, last_layer(task).spec.width_out, gradient_ * shares[t].loss * factor);
    if (task.main) losses.push_back(loss);
  }
  if (run_.weighers >= 0) learn_weighing(shares, losses);
}

// Gradients by the numbers that weigh losses.
template <class T> void Run<T>::learn_weighing(const VbxShare* shares, const std::vector<double>& losses) {
  double first = 0;  // the share of the first main task; all that are not fixed are alike
  long k = 0;
  for (std::size_t t = 0; t < tasks_.size(); t++) {
    if (!tasks_[t].main) continue;
    if (k == 0) first = shares[t].loss;
    const double number = double(weighers_.weight[k]);
    const double slope = shares[t].loss * weighing_.slope(number, losses[std::size_t(k)]);
    d_weighers_[k++] = T(gradient_ * (slope + first * weighing_.restraint(number)));
  }
  weighing_.end(losses);
}

template <class T> void Run<T>::predict(const VbxSplit& split, void* const* outputs) {
  const FlushTiny flush;
  Feed<T> feed(kPredicted, layers_[0].spec.width_in);
  for (long begin = 0; begin < split.rows; begin += kPredicted) {
    feed.point(split, nullptr, begin, kPredicted);
    forward_vectors(predicted_, predicting_, feed);
    forward_all(predicted_, predicting_, nullptr);
    const long count = std::min(kPredicted, long(split.rows) - begin);
    for (std::size_t t = 0; t < tasks_.size(); t++) {
      const long width = last_layer(tasks_[t]).spec.width_out;
      for (long row = 0; row < count; row++)
        take_row(output(predicted_, tasks_[t]), row, static_cast<T*>(outputs[t]) + (begin + row) * width, width);
    }
  }
}

}  // namespace vbx

#include "ways.hpp"
