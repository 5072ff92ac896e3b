// Overlay: empty, because nvcuda::wmma does not exist for g++ and no sm_90a collective uses it.
#pragma once
