// Stacks and the switch between them (x86-64, System V). A fiber is a stack whose saved registers lie on top
// of it.
#include <sys/mman.h>

#include <cstring>
#include <new>

#include "sim/machine.h"

#if !defined(__x86_64__) || !defined(__linux__)
#error "csrc/sim runs on x86-64 Linux only: build with BLIP3V_SIM=0"
#endif

extern "C" void blip3v_sim_switch(void** save_stack_pointer, void* to_stack_pointer);
__asm__(
    ".text\n"
    ".hidden blip3v_sim_switch\n"
    ".globl blip3v_sim_switch\n"
    ".type blip3v_sim_switch, @function\n"
    "blip3v_sim_switch:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp, (%rdi)\n"
    "  mov %rsi, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
    "  ret\n"
    ".size blip3v_sim_switch, . - blip3v_sim_switch\n");

namespace blip3v::sim {
namespace {

constexpr std::size_t kStack = 256 << 10;
constexpr unsigned kSavedRegisters = 6;

std::vector<char*> stacks;  // kept for the next launch, one per thread of the largest cluster so far
void* scheduler_stack_pointer = nullptr;

std::size_t whole_pages(std::size_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

void run_thread() {
  (*machine.body)();
  Thread& thread = self();
  require_no_stores_left(thread);
  require_no_wgmma_left(thread);
  --thread.block->live;
  --machine.live;
  barriers_without(thread);
  wait_as(State::kDone);
}

}  // namespace

char* map_guarded(std::size_t bytes) {
  const std::size_t size = whole_pages(bytes);
  void* base =
      mmap(nullptr, size + 2 * kGuard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  char* usable = static_cast<char*>(base) + kGuard;
  if (mprotect(usable, size, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  return usable;
}

void unmap_guarded(char* usable, std::size_t bytes) {
  munmap(usable - kGuard, whole_pages(bytes) + 2 * kGuard);
}

void prepare_fiber(Thread& thread) {
  while (stacks.size() <= thread.index) stacks.push_back(map_guarded(kStack));
  // Below the return address lie the callee-saved registers that the first switch pops. After that pop the
  // stack pointer must be 8 modulo 16, as after a call.
  void** top = reinterpret_cast<void**>(stacks[thread.index] + kStack) - 2;
  *top = reinterpret_cast<void*>(&run_thread);
  top -= kSavedRegisters;
  std::memset(top, 0, kSavedRegisters * sizeof(void*));
  thread.stack_pointer = top;
}

void resume(Thread& thread) {
  blip3v_sim_switch(&scheduler_stack_pointer, thread.stack_pointer);
}

void suspend() {
  blip3v_sim_switch(&self().stack_pointer, scheduler_stack_pointer);
}

bool in_stack_guard(const char* address) {
  for (const char* stack : stacks) {
    if (address >= stack - kGuard && address < stack) return true;
  }
  return false;
}

}  // namespace blip3v::sim
