// How the losses of the main tasks are weighed, as `main_loss` of `vbx/heads/objective.py` defines it.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace vbx {

enum Weighting { kGiven, kUncertainty, kRruw, kDruw };

// Of M main tasks, each with a number that is learnt: ln sigma^2, or what DRUW and RRUW call a deviation.
class Weighing {
 public:
  explicit Weighing(int kind = kGiven, long tasks = 0)
      : kind_(kind), count_(tasks), dynamic_(std::size_t(tasks)), earlier_(std::size_t(tasks)), later_(earlier_) {}

  // A step begins: `numbers` are as the step before left them.
  template <class T> void begin(const T* numbers) {
    double total = 0;
    for (long k = 0; k < count_; k++) total += std::fabs(double(numbers[k]));
    const double gap = 1 - total;
    pull_ = std::fabs(gap) > kSlack ? (gap > 0 ? -1.0 : 1.0) : 0.0;
    if (kind_ == kDruw) weigh_by_history();
  }

  // What the loss of a task is multiplied by, from its number.
  double factor(long k, double number) const {
    const double square = double(count_) * number * number;
    switch (kind_) {
      case kUncertainty: return 0.5 * std::exp(-number);
      case kRruw: return 1 / square;
      case kDruw: return dynamic_[std::size_t(k)] + 1 / square;
      default: return 1;
    }
  }

  // Slope of the weighed loss by the number, but for the restraint on all numbers together.
  double slope(double number, double loss) const {
    if (kind_ == kUncertainty) return 0.5 - 0.5 * std::exp(-number) * loss;
    return -2 * loss / (double(count_) * number * number * number) + 2 * number / (1 + number * number);
  }

  // Slope of the restraint, which holds the sum of the deviations to 1.
  double restraint(double number) const {
    return kind_ == kUncertainty ? 0.0 : pull_ * (number > 0 ? 1.0 : number < 0 ? -1.0 : 0.0);
  }

  // The step ends: `losses` of the tasks.
  void end(const std::vector<double>& losses) {
    earlier_.swap(later_);
    std::copy(losses.begin(), losses.end(), later_.begin());
  }

 private:
  static constexpr double kSlack = 1e-6, kTemperature = 10, kLeastLoss = 1e-8;

  // M softmax((L(t-1) / L(t-2)) / 10); a ratio to no loss is 1.
  void weigh_by_history() {
    double total = 0;
    for (std::size_t k = 0; k < dynamic_.size(); k++) {
      const double ratio = earlier_[k] > kLeastLoss ? later_[k] / earlier_[k] : 1.0;
      dynamic_[k] = ratio / kTemperature;
    }
    const double most = dynamic_.empty() ? 0 : *std::max_element(dynamic_.begin(), dynamic_.end());
    for (double& power : dynamic_) total += power = std::exp(power - most);
    for (double& power : dynamic_) power *= double(count_) / total;
  }

  int kind_;
  long count_;
  double pull_ = 0;
  std::vector<double> dynamic_, earlier_, later_;
};

}  // namespace vbx
