// What Python sees of the kernel, through ctypes: plain structures and seven functions.
//
// Weights cross it as one array of numbers, laid out as `vbx/heads/model.py` lays out a run. Arrays of labels and of
// outputs are float or double, as the run is; indices of classes are int64.
#pragma once

#include <stdint.h>

extern "C" {

typedef struct {
  int64_t width_in, width_out;          // without padding
  int64_t weight, bias, gain, shift;    // where each begins among the numbers; gain is -1 where there is no norm
  int64_t stride;                       // numbers from one row of the weight to the next
  int32_t source;                       // layer that feeds it, -1 for the vectors, -2 for what the main tasks say
  int32_t active;                       // whether activation and dropout follow
  int32_t judges;                       // whether it is a discriminator's
} VbxLayer;

typedef struct {
  int32_t first, layer, loss, sigmoid, columns;  // its first layer and its last; how many columns it has labels of
  int32_t main, replace;                         // whether it is a main task; whether what is missing is replaced
  double gamma, factor;                          // of the focal loss; columns where a sum is asked for, else 1
} VbxTask;

typedef struct {
  int64_t size, batch, weighers;  // numbers of a run; rows a step; where those that weigh losses begin, -1 for none
  int32_t layers, tasks, activation, rule, weighting, is_double;
  uint32_t dropout_key;
  double dropout;
  double lr, uncertainty_lr, discriminator_lr, weight_decay, momentum;
} VbxRun;

typedef struct {
  const void* x;               // scaled vectors
  int64_t rows, stride;
  const void* const* truth;    // of each task, (rows,) or (rows, columns)
  const void* const* weight;   // of the same shapes, 0 where a label is missing
  const void* const* limits;   // of each task, least and largest number in train (2, columns); to train with
} VbxSplit;

typedef struct {
  double loss, back;  // of a task in one epoch: factor of its loss, and of the gradient its first layer passes back
} VbxShare;

const char* vbx_path(void);    // which instructions it was translated for
const char* vbx_best(void);    // which of the paths this machine can take: avx512, avx2 or portable
void* vbx_open(const VbxRun*, const VbxLayer*, const VbxTask*, const void* numbers);  // null if there is no memory
void vbx_close(void*);
// One pass over train in the given order; `words` hold a number for each step and layer, null without dropout.
void vbx_train(void*, const VbxSplit*, const VbxShare*, const int64_t* order, int64_t steps_before,
               const uint32_t* words);
void vbx_predict(void*, const VbxSplit*, void* const* outputs);  // of each task, (rows, width of its last layer)
void vbx_numbers(void*, void* numbers);
}
