// TokenLearner, backward: `fold` and `logits` again, the latter writing the hidden layer and the rows'
// statistics too, then
//
//   slopes  gradients of the logits and of the hidden layer     slopes.cuh
//   inputs  dx                                                  inputs.cuh
//
// What is left for the caller are the gradients of the parameters: two large matrix products over all tokens
// and sums of small things.
#pragma once

#include "token_learner/inputs.cuh"
#include "token_learner/slopes.cuh"
