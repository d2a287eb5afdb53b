// A program file: mapped, its seal checked, loaded by ExecuTorch, its card read.
#pragma once

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "json.hpp"
#include "rebnn/runtime.hpp"

namespace rebnn {

// A file's bytes, mapped for reading.
class MappedFile {
public:
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

private:
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

// Bytes of the program in front of its seal; throws Error with a sentence if the file is damaged, of another version or
// another program's. See rebnn_mm/deploy/targets/executorch/file.py.
size_t check_seal(const uint8_t* data, size_t size, const std::string& path);

// Values in the memory order that a program takes (images NHWC), as many as the shape says.
struct Given {
    const float* values;
    std::vector<int32_t> shape;
};

class Program {
public:
    // Loads the first of a program's methods.
    explicit Program(const std::string& path, const std::string& method = "forward");

    // Loads one more; its number, 1, 2, ..., which the functions below take.
    size_t load(const std::string& method);

    const std::vector<Input>& inputs(size_t method = 0) const { return methods_[method].inputs; }
    int32_t outputs(size_t method = 0) const { return methods_[method].outputs; }  // elements of the first result
    const Json& card() const { return card_; }
    const std::string& card_text() const { return card_text_; }

    // Each of a shape that its input takes. The results are the program's own until the next call of the same method.
    std::vector<executorch::aten::Tensor> run(const std::vector<Given>& inputs, size_t method = 0);

    // The median CPU time of each instruction of the first method over `repeat` calls.
    std::vector<Step> profile(const std::vector<Given>& inputs, int repeat);

private:
    struct Method {
        std::string name;
        std::vector<Input> inputs;
        std::vector<std::vector<int64_t>> integers;  // values of inputs of whole numbers
        int32_t outputs = 0;
    };

    // The inputs as ExecuTorch's tensors, which `tensors` keeps alive.
    std::vector<executorch::runtime::EValue> bind(const std::vector<Given>& inputs, Method* method,
                                                  std::vector<executorch::extension::TensorPtr>* tensors);
    void read_card();
    Method described(const std::string& name) const;
    void read_sizes(std::vector<Input>* inputs) const;
    [[noreturn]] void fail(const char* doing, executorch::runtime::Error error) const;

    std::string path_;
    MappedFile file_;
    std::unique_ptr<executorch::extension::Module> module_;
    std::string card_text_;
    Json card_;
    std::vector<Method> methods_;
};

// Class names of a program that takes one image; throws Error where its card is not that of `kind`.
std::vector<std::string> classes_of(const Program& program, const std::string& path, const char* kind);

// The name, or the number where a file has no name for it.
std::string name_of(const std::vector<std::string>& classes, int32_t index);

}  // namespace rebnn
