// TokenLearner, forward: three launches, in which x is read twice, the second time out of L2 where a group of
// videos fits there.
//
//   fold    the norms' parameters into the first matrix            fold.cuh
//   logits  of all tokens, with maximum and sum of every tile      logits.cuh
//   pool    softmax over the tokens, weighted sums of x            pool.cuh
#pragma once

#include "token_learner/fold.cuh"
#include "token_learner/logits.cuh"
#include "token_learner/pool.cuh"
