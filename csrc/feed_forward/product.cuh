// A product of matrices with something done to its elements on the way out: CUTLASS's kernel for Hopper (TMA,
// wgmma, specialised warps, persistent blocks), put together for one cut and one epilogue and launched
// through our launch().
//
// Runs in the simulator and compiles for sm_90a; it has not run on a GPU yet.
#pragma once

#include <cutlass/cutlass.h>

#include <cute/tensor.hpp>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>

// The parts for this architecture by name: collective_mma.hpp and gemm_universal.hpp would bring those for
// all.
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/builders/sm90_gmma_builder.inl>
#include <cutlass/gemm/collective/collective_mma_decl.hpp>
#include <cutlass/gemm/collective/sm90_mma_tma_gmma_ss_warpspecialized.hpp>
#include <cutlass/gemm/kernel/sm90_gemm_tma_warpspecialized_cooperative.hpp>
#include <cutlass/gemm/kernel/sm90_gemm_tma_warpspecialized_pingpong.hpp>

#include "common/device_scope.h"
#include "common/launch.cuh"
#include "feed_forward/params.h"
#include "feed_forward/tiles.h"

namespace blip3v::feed_forward {

using bf16 = cutlass::bfloat16_t;
using RowMajor = cutlass::layout::RowMajor;

constexpr int kAlignment = 8;  // elements: 16 bytes
constexpr auto kNearest = cutlass::FloatRoundStyle::round_to_nearest;

// B of [columns, depth] or, transposed, of [depth, columns]; both in row-major order.
enum class Operand { kAsStored, kTransposed };

template <class Cut>
struct Epilogues {
  using Schedule = std::conditional_t<Cut::kPingpong, cutlass::epilogue::TmaWarpSpecialized,
                                      cutlass::epilogue::TmaWarpSpecializedCooperative>;
  // C: what is read, bf16 or void.
  template <class C, class Tree>
  using Of = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, typename Cut::Tile, typename Cut::Cluster,
      typename Cut::Written, float, float, C, RowMajor, kAlignment, bf16, RowMajor, kAlignment, Schedule,
      Tree>::CollectiveOp;

  // A second output beside D, of the same type and shape.
  template <class C>
  struct Second {
    using Epilogue =
        cutlass::epilogue::collective::detail::EpilogueDescriptor<typename Cut::Tile, typename Cut::Written,
                                                                  C, bf16, Schedule>;
    using Store = cutlass::epilogue::collective::detail::AuxStoreDescriptor<Epilogue, RowMajor, bf16>;
    using Node =
        cutlass::epilogue::fusion::Sm90AuxStore<Store::Stages, typename Epilogue::EpilogueTile, bf16,
                                                kNearest, typename Store::Stride,
                                                typename Store::SmemLayoutAtom, typename Store::CopyOpR2S>;
  };
};

template <class Cut, Operand kB, class Epilogue_>
struct Product {
  using Epilogue = Epilogue_;
  using LayoutB =
      std::conditional_t<kB == Operand::kAsStored, cutlass::layout::ColumnMajor, cutlass::layout::RowMajor>;
  using Stages =
      cutlass::gemm::collective::StageCountAutoCarveout<int(sizeof(typename Epilogue::SharedStorage))>;
  using Schedule = std::conditional_t<Cut::kPingpong, cutlass::gemm::KernelTmaWarpSpecializedPingpong,
                                      cutlass::gemm::KernelTmaWarpSpecializedCooperative>;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, bf16, RowMajor, kAlignment, bf16, LayoutB,
      kAlignment, float, typename Cut::Tile, typename Cut::Cluster, Stages, Schedule>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue>;
  using Params = typename Kernel::Params;
  using Tree = typename Epilogue::FusionCallbacks::Arguments;

  struct alignas(1024) Shared {
    char bytes[Kernel::SharedStorageSize];
  };
  static_assert(sizeof(Shared) <= 227 * 1024);
  // CUTLASS aligns its operands to 128 bytes, the 128-byte swizzle of TMA and wgmma repeats after 1024.
  static_assert(offsetof(typename Kernel::SharedStorage, tensors.mainloop) % 1024 == 0);

  static auto row_major(Matrix const& matrix) {
    return cute::make_stride(matrix.row, cute::_1{}, std::int64_t(0));
  }
  static auto operand_b(Matrix const& matrix) {
    if constexpr (kB == Operand::kAsStored) {
      return row_major(matrix);
    } else {
      return cute::make_stride(cute::_1{}, matrix.row, std::int64_t(0));
    }
  }

  // d [rows, columns] = tree(a [rows, depth] b), where the tree may also read c.
  static Params params(int rows, int columns, int depth, Matrix const& a, Matrix const& b, Tree const& tree,
                       Matrix const& c, Matrix const& d) {
    auto const in = [](Matrix const& matrix) { return static_cast<bf16 const*>(matrix.data); };
    typename Kernel::Arguments arguments{cutlass::gemm::GemmUniversalMode::kGemm, {rows, columns, depth, 1}};
    arguments.mainloop = {in(a), row_major(a), in(b), operand_b(b)};
    arguments.epilogue.thread = tree;
    if constexpr (!cute::is_void_v<typename Epilogue::ElementC>) {
      arguments.epilogue.ptr_C = in(c);
      arguments.epilogue.dC = row_major(c);
    }
    arguments.epilogue.ptr_D = static_cast<bf16*>(d.data);
    arguments.epilogue.dD = row_major(d);
    arguments.hw_info.device_id = 0;
    int const clusters = std::max(1, multiprocessors() / Cut::kClusterSize);  // that run at a time
    arguments.hw_info.sm_count = clusters * Cut::kClusterSize;
    arguments.hw_info.max_active_clusters = clusters;
    return Kernel::to_underlying_arguments(arguments, nullptr);
  }
};

template <class Product>
__global__ void __launch_bounds__(Product::Kernel::MaxThreadsPerBlock, 1)
    product_kernel(__grid_constant__ const typename Product::Params params) {
  typename Product::Kernel kernel;
  kernel(params, dynamic_shared<typename Product::Shared>().bytes);
}

template <class Cut, class Product>
void launch_product(typename Product::Params const& params, cudaStream_t stream) {
  using Kernel = typename Product::Kernel;
  launch("feed_forward", product_kernel<Product>,
         {Kernel::get_grid_shape(params), Kernel::get_block_shape(), Cut::cluster(),
          sizeof(typename Product::Shared)},
         stream, params);
}

}  // namespace blip3v::feed_forward
