// Memory from the operating system, and the pages of mapped files.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

// Anonymous mapped memory: zero, 2 MiB pages where the kernel gives them, committed on first touch.
class Region {
  public:
    Region() = default;
    explicit Region(size_t bytes);
    ~Region();
    Region(Region&& other) noexcept;
    Region& operator=(Region&& other) noexcept;

    uint8_t* data() const { return data_; }
    size_t bytes() const { return bytes_; }

  private:
    uint8_t* data_ = nullptr;
    size_t bytes_ = 0;
};

// Reads the pages of a mapped file that hold `data`, a piece while the disk already has the next one to read.
// Page faults would wait for each of the pieces that the file system reads ahead, often 128 KiB.
void fetch(const uint8_t* data, size_t bytes);

}  // namespace octavo
