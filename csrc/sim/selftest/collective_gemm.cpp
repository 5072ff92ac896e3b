// A stock CUTLASS 3 product (TMA, warp-specialised, cooperative, clusters of two with multicast, TMA-store
// epilogue): what CollectiveBuilder gives, launched through our launch().
#include <cutlass/cutlass.h>

#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/util/packed_stride.hpp>

#include "common/launch.cuh"
#include "sim/selftest/selftest.h"

namespace blip3v::selftest {
namespace {

using namespace cute;
using bf16 = cutlass::bfloat16_t;
using Rows = cutlass::layout::RowMajor;
using Columns = cutlass::layout::ColumnMajor;
using Tile = Shape<_128, _128, _64>;
using Cluster = Shape<_2, _1, _1>;
constexpr int kAlignment = 8;

using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
    cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, Rows, kAlignment, bf16, Rows,
    kAlignment, cutlass::epilogue::TmaWarpSpecializedCooperative>::CollectiveOp;
using Stages =
    cutlass::gemm::collective::StageCountAutoCarveout<int(sizeof(typename Epilogue::SharedStorage))>;
using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, bf16, Rows, kAlignment, bf16, Columns, kAlignment,
    float, Tile, Cluster, Stages, cutlass::gemm::KernelTmaWarpSpecializedCooperative>::CollectiveOp;
using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Mainloop, Epilogue>;

struct alignas(1024) Shared {
  char bytes[Kernel::SharedStorageSize];
};

__global__ void __launch_bounds__(Kernel::MaxThreadsPerBlock, 1)
    collective_kernel(__grid_constant__ const typename Kernel::Params params) {
  Kernel kernel;
  kernel(params, dynamic_shared<Shared>().bytes);
}

}  // namespace

void collective_gemm(const void* a, const void* b, void* d, int m, int n, int k, int multiprocessors) {
  auto stride = [](auto type, int rows, int columns) {
    return cutlass::make_cute_packed_stride(type, {rows, columns, 1});
  };
  cutlass::KernelHardwareInfo hardware;
  hardware.device_id = 0;
  hardware.sm_count = multiprocessors;
  hardware.max_active_clusters = multiprocessors / 2;
  typename Kernel::Arguments arguments{
      cutlass::gemm::GemmUniversalMode::kGemm,
      {m, n, k, 1},
      {static_cast<const bf16*>(a), stride(typename Kernel::StrideA{}, m, k), static_cast<const bf16*>(b),
       stride(typename Kernel::StrideB{}, n, k)},
      {{}, nullptr, {}, static_cast<bf16*>(d), stride(typename Kernel::StrideD{}, m, n)},
      hardware};
  arguments.epilogue.thread.alpha = 1.f;
  arguments.epilogue.thread.beta = 0.f;
  auto const params = Kernel::to_underlying_arguments(arguments, nullptr);
  launch("collective_gemm", collective_kernel,
         {Kernel::get_grid_shape(params), Kernel::get_block_shape(), dim3(2), sizeof(Shared)}, nullptr,
         params);
}

}  // namespace blip3v::selftest
