#include "program.hpp"

#include <executorch/extension/threadpool/threadpool_guard.h>
#include <executorch/runtime/core/data_loader.h>
#include <executorch/runtime/platform/platform.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "checksum.hpp"
#include "threads.hpp"

namespace rebnn {
namespace {

using executorch::aten::ScalarType;
using executorch::extension::Module;
using executorch::runtime::EValue;
using ExecutorchError = executorch::runtime::Error;

constexpr size_t kSeal = 32;
constexpr uint32_t kProgramVersion = 1;
constexpr int64_t kCardFormat = 1;

// ExecuTorch writes lines of its own to stderr; ours are the sentences of Error. REBNN_VERBOSE=1 lets it speak.
void quiet_executorch() {
    static const bool once = [] {
        if (!std::getenv("REBNN_VERBOSE")) {
            executorch::runtime::PalImpl silent{};
            silent.emit_log_message = [](et_timestamp_t, et_pal_log_level_t, const char*, const char*, size_t, const char*, size_t) {};
            executorch::runtime::register_pal(silent);
        }
        return true;
    }();
    (void)once;
}

template <class T>
T read_at(const uint8_t* bytes, size_t offset) {
    T value;
    std::memcpy(&value, bytes + offset, sizeof(T));
    return value;
}

// One thread is the calling one: XNNPACK's pool stays out of it.
class OneThread {
public:
    OneThread() : guarded_(threads() == 1 && !Guard::is_enabled()) {
        if (guarded_) Guard::set_enabled(true);
    }
    ~OneThread() {
        if (guarded_) Guard::set_enabled(false);
    }

private:
    using Guard = executorch::extension::threadpool::NoThreadPoolGuard;
    bool guarded_;
};

// Let the memory of whole pages of a mapped file go; what is read again comes from the file.
void forget(const void* data, size_t size) {
    static const auto page = uintptr_t(::sysconf(_SC_PAGESIZE));
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + size) / page * page;
    if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

// Gives ExecuTorch parts of a mapped file; those that delegates have made their own of need no memory from then on.
class MappedLoader final : public executorch::runtime::DataLoader {
public:
    MappedLoader(const uint8_t* data, size_t size) : data_(data), size_(size) {}

    executorch::runtime::Result<executorch::runtime::FreeableBuffer> load(size_t offset, size_t size, const SegmentInfo&) const override {
        if (offset > size_ || size > size_ - offset) return ExecutorchError::InvalidArgument;
        return executorch::runtime::FreeableBuffer(data_ + offset, size, [](void*, void* data, size_t bytes) { forget(data, bytes); });
    }

    executorch::runtime::Result<size_t> size() const override { return size_; }

private:
    const uint8_t* data_;
    size_t size_;
};

}  // namespace

MappedFile::MappedFile(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (file < 0 || ::fstat(file, &status) || !S_ISREG(status.st_mode)) {
        const std::string reason = file < 0 ? std::strerror(errno) : "it is no file";
        if (file >= 0) ::close(file);
        throw Error(path + " cannot be read: " + reason);
    }
    size_ = size_t(status.st_size);
    if (size_) {
        void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
        if (mapped != MAP_FAILED) data_ = static_cast<uint8_t*>(mapped);
    }
    const std::string reason = std::strerror(errno);
    ::close(file);
    if (size_ && !data_) throw Error(path + " cannot be read: " + reason);
}

MappedFile::~MappedFile() {
    if (data_) ::munmap(data_, size_);
}

size_t check_seal(const uint8_t* data, size_t size, const std::string& path) {
    if (size < kSeal + 8 || std::memcmp(data + size - kSeal, "REBNNPTE", 8))
        throw Error(path + " is cut off, or no program that rebnn_mm exported: export it again");
    const uint8_t* seal = data + size - kSeal;
    const auto version = read_at<uint32_t>(seal, 8);
    if (version != kProgramVersion)
        throw Error(path + " was exported by " + (version < kProgramVersion ? "an older" : "a newer") + " version (program version " +
                    std::to_string(version) + ", this one reads " + std::to_string(kProgramVersion) + "): export it again");
    if (read_at<uint64_t>(seal, 16) != size || read_at<uint64_t>(seal, 24) != 0 || crc32(data, size - kSeal) != read_at<uint32_t>(seal, 12))
        throw Error(path + " is damaged: its checksum is wrong; copy or export it again");
    return size - kSeal;
}

Program::Program(const std::string& path, const std::string& method) : path_(path), file_(path) {
    quiet_executorch();
    const size_t size = check_seal(file_.data(), file_.size(), path);
    forget(file_.data(), file_.size());  // the checksum read all of it
    set_last_error("");
    module_ = std::make_unique<Module>(std::make_unique<MappedLoader>(file_.data(), size));
    const ExecutorchError error = module_->load(executorch::runtime::Program::Verification::InternalConsistency);
    if (error != ExecutorchError::Ok) fail("is no program that this ExecuTorch reads", error);
    read_card();
    load(method);
}

size_t Program::load(const std::string& method) {
    const auto names = module_->method_names();
    if (!names.ok() || !names->count(method)) throw Error(path_ + " has no method " + method);
    set_last_error("");
    OneThread guard;
    const ExecutorchError error = module_->load_method(method);
    if (error == ExecutorchError::OperatorMissing)
        throw Error(path_ + " needs operators that this program was built without: build it with ExecuTorch's kernels (REBNN_KERNELS=ON)");
    if (error != ExecutorchError::Ok) fail("cannot be loaded", error);
    methods_.push_back(described(method));
    return methods_.size() - 1;
}

void Program::fail(const char* doing, ExecutorchError error) const {
    const std::string why = *last_error() ? last_error() : "ExecuTorch's error " + std::to_string(int(error)) + " (REBNN_VERBOSE=1 shows more)";
    throw Error(path_ + " " + doing + ": " + why);
}

void Program::read_card() {
    const auto names = module_->method_names();
    if (!names.ok() || !names->count("rebnn_card")) throw Error(path_ + " has no card: export it with rebnn_mm");
    const auto card = module_->execute("rebnn_card");
    if (!card.ok() || card->size() != 1 || !card->front().isString()) throw Error(path_ + " has no card that can be read");
    card_text_ = std::string(card->front().toString());
    try {
        card_ = Json::parse(card_text_);
        if (card_["format"].integer(0, 1 << 30) != kCardFormat) throw Error(path_ + " has a card of another version: export it again");
    } catch (const Error&) {
        throw;
    } catch (const std::runtime_error& error) {
        throw Error(path_ + ": " + error.what());
    }
}

Program::Method Program::described(const std::string& name) const {
    Method method;
    method.name = name;
    const auto meta = module_->method_meta(name);
    if (!meta.ok()) fail("does not tell its inputs", meta.error());
    for (size_t i = 0; i < meta->num_inputs(); ++i) {
        const auto tensor = meta->input_tensor_meta(i);
        if (!tensor.ok()) fail("takes something else than tensors", tensor.error());
        Input input{};
        size_t elements = 1;
        for (const int32_t size : tensor->sizes()) {
            input.shape.push_back(size);
            elements *= size_t(size);
        }
        const auto order = tensor->dim_order();
        input.is_image = order.size() == 4 && order[1] == 2 && order[2] == 3 && order[3] == 1;
        bool plain = true;
        for (size_t d = 0; d < order.size(); ++d) plain = plain && order[d] == d;
        input.is_integer = tensor->scalar_type() == ScalarType::Long;
        const bool known = input.is_integer || tensor->scalar_type() == ScalarType::Float;
        if (!known || !(plain || input.is_image)) throw Error(path_ + " takes a tensor of a kind that this library does not know");
        input.least = input.shape;
        method.inputs.push_back(std::move(input));
        method.integers.emplace_back(method.inputs.back().is_integer ? elements : 0);
    }
    if (name == "forward") read_sizes(&method.inputs);
    const auto result = meta->output_tensor_meta(0);
    if (!result.ok()) fail("gives something else than tensors", result.error());
    method.outputs = 1;
    for (const int32_t size : result->sizes()) method.outputs *= size;
    return method;
}

// What the card says of sizes that may change; without it they may not.
void Program::read_sizes(std::vector<Input>* inputs) const {
    try {
        const auto& cards = card_["inputs"].array();
        for (size_t i = 0; i < inputs->size() && i < cards.size(); ++i) {
            Input& input = (*inputs)[i];
            if (cards[i]["least"].is_null()) continue;
            const auto& least = cards[i]["least"].array();
            bool fits = input.is_image && least.size() == input.shape.size();
            for (size_t d = 0; fits && d < least.size(); ++d) input.least[d] = int32_t(least[d].integer(1, input.shape[d]));
            input.multiple = int32_t(cards[i]["multiple"].integer(1, 1 << 12));
            fits = fits && input.least[0] == input.shape[0] && input.least[1] == input.shape[1];
            for (const auto* sizes : {&input.least, &input.shape})
                for (size_t d = 2; fits && d < sizes->size(); ++d) fits = (*sizes)[d] % input.multiple == 0;
            if (!fits) throw std::runtime_error("the program's card is malformed: sizes of an input");
        }
    } catch (const std::runtime_error& error) {
        throw Error(path_ + ": " + error.what());
    }
}

std::vector<EValue> Program::bind(const std::vector<Given>& inputs, Method* method, std::vector<executorch::extension::TensorPtr>* tensors) {
    if (inputs.size() != method->inputs.size()) throw Error(path_ + " takes " + std::to_string(method->inputs.size()) + " inputs, not " + std::to_string(inputs.size()));
    using executorch::extension::make_tensor_ptr;
    std::vector<EValue> values;
    for (size_t i = 0; i < inputs.size(); ++i) {
        const Input& input = method->inputs[i];
        const std::vector<executorch::aten::SizesType> shape(inputs[i].shape.begin(), inputs[i].shape.end());
        auto* data = const_cast<float*>(inputs[i].values);  // read only
        if (input.is_integer) {
            std::vector<int64_t>& integers = method->integers[i];
            for (size_t k = 0; k < integers.size(); ++k) integers[k] = int64_t(std::llrint(data[k]));
            tensors->push_back(make_tensor_ptr(shape, static_cast<void*>(integers.data()), {}, {}, ScalarType::Long));
        } else if (input.is_image) {
            tensors->push_back(make_tensor_ptr(shape, static_cast<void*>(data), {0, 2, 3, 1}, {}, ScalarType::Float));
        } else {
            tensors->push_back(make_tensor_ptr(shape, static_cast<void*>(data), {}, {}, ScalarType::Float));
        }
        values.emplace_back(tensors->back());
    }
    return values;
}

std::vector<executorch::aten::Tensor> Program::run(const std::vector<Given>& inputs, size_t method) {
    std::vector<executorch::extension::TensorPtr> tensors;
    const std::vector<EValue> values = bind(inputs, &methods_[method], &tensors);
    set_last_error("");
    OneThread guard;
    auto results = module_->execute(methods_[method].name, values);
    if (!results.ok()) fail("does not run", results.error());
    std::vector<executorch::aten::Tensor> found;
    for (const EValue& value : *results) {
        if (!value.isTensor() || value.toTensor().scalar_type() != ScalarType::Float) throw Error(path_ + " gives something else than float tensors");
        found.push_back(value.toTensor());
    }
    return found;
}

// ExecuTorch marks what runs one instruction at a time as experimental; it is in no other part of this library.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
std::vector<Step> Program::profile(const std::vector<Given>& inputs, int repeat) {
    std::vector<executorch::extension::TensorPtr> tensors;
    const std::vector<EValue> values = bind(inputs, &methods_[0], &tensors);
    set_last_error("");
    OneThread guard;
    const auto method = module_->method(methods_[0].name);
    if (!method.ok()) fail("cannot be profiled", method.error());
    std::vector<std::vector<double>> times;
    std::vector<Step> steps;
    for (int call = 0; call < repeat; ++call) {
        ExecutorchError error = (*method)->set_inputs({values.data(), values.size()});
        if (error != ExecutorchError::Ok) fail("does not take its inputs", error);
        for (size_t at = 0;; ++at) {
            const double before = milliseconds_in_layers();
            const double begin = thread_milliseconds();
            error = (*method)->step();
            const double took = thread_milliseconds() - begin;
            if (error == ExecutorchError::EndOfMethod) break;
            if (error != ExecutorchError::Ok) fail("does not run", error);
            if (at == steps.size()) {
                steps.push_back({0, milliseconds_in_layers() > before});
                times.emplace_back();
            }
            times[at].push_back(took);
        }
        error = (*method)->reset_execution();
        if (error != ExecutorchError::Ok) fail("does not run again", error);
    }
    for (size_t at = 0; at < steps.size(); ++at) {
        const auto middle = times[at].begin() + std::ptrdiff_t(times[at].size() / 2);
        std::nth_element(times[at].begin(), middle, times[at].end());
        steps[at].milliseconds = *middle;
    }
    return steps;
}
#pragma GCC diagnostic pop

}  // namespace rebnn
