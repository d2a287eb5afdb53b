// The delegate "RebnnBackend": a layer for each handle, prepared in init() and freed in destroy().
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>

#include <new>

#include "layer.hpp"
#include "threads.hpp"

namespace {

namespace et = executorch::runtime;
using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::Tensor;

// Whether the memory of a 4-d tensor is NHWC; -1 for any order but NHWC and NCHW.
int is_channels_last(const Tensor& tensor) {
    const auto order = tensor.dim_order();
    if (order.size() != 4 || order[0] != 0) return -1;
    if (order[1] == 1 && order[2] == 2 && order[3] == 3) return 0;
    return order[1] == 2 && order[2] == 3 && order[3] == 1 ? 1 : -1;
}

// Whether a 4-d tensor lies in memory as NHWC or, with `last` false, as NCHW. Of one channel or one pixel both are the same.
bool lies_as(const Tensor& tensor, bool last) {
    const int order = is_channels_last(tensor);
    return order == int(last) || (order >= 0 && (tensor.size(1) == 1 || tensor.size(2) * tensor.size(3) == 1));
}

bool is_plain(const Tensor& tensor) {
    const auto order = tensor.dim_order();
    for (size_t i = 0; i < order.size(); ++i)
        if (order[i] != i) return false;
    return true;
}

// The tensors of a call, checked: kinds, sizes and memory orders are those that the layer takes.
struct Call {
    const Tensor* x = nullptr;
    const Tensor* residual = nullptr;
    Tensor* floats = nullptr;
    Tensor* signs = nullptr;
    rebnn::Sizes sizes{1, 1, 0};
    bool channels_last = true;

    const char* take(const rebnn::Layer& layer, et::Span<et::EValue*> args) {
        const rebnn::Blob& blob = layer.blob();
        if (args.size() != size_t(blob.arguments)) return "the program gives a 1-bit layer another number of tensors";
        for (size_t i = 0; i < args.size(); ++i)
            if (!args[i]->isTensor()) return "the program gives a 1-bit layer something else than tensors";
        x = &args[size_t(blob.x)]->toTensor();
        if (blob.residual >= 0) residual = &args[size_t(blob.residual)]->toTensor();
        if (blob.floats >= 0) floats = &args[size_t(blob.floats)]->toTensor();
        if (blob.signs >= 0) signs = &args[size_t(blob.signs)]->toTensor();
        if (x->scalar_type() != (blob.signs_in ? ScalarType::Int : ScalarType::Float)) return "the input of a 1-bit layer has another type";
        if (residual && residual->scalar_type() != ScalarType::Float) return "the shortcut of a 1-bit layer is not float";
        if ((floats && floats->scalar_type() != ScalarType::Float) || (signs && signs->scalar_type() != ScalarType::Int))
            return "a result of a 1-bit layer has another type";
        return blob.kind == rebnn::Kind::linear ? take_rows(layer) : take_images(layer);
    }

private:
    const char* take_rows(const rebnn::Layer& layer) {
        const int64_t columns = layer.blob().signs_in ? (layer.c_in() + 31) / 32 : layer.c_in();
        const auto dims = size_t(x->dim());
        if (dims < 1 || dims > kDims || x->size(x->dim() - 1) != columns || !is_plain(*x)) return "the input of a 1-bit linear layer has another shape";
        sizes.w = x->numel() / columns;
        SizesType shape[kDims];
        for (size_t i = 0; i < dims; ++i) shape[i] = SizesType(x->size(ssize_t(i)));
        return resize(layer, shape, dims, shape, dims);
    }

    const char* take_images(const rebnn::Layer& layer) {
        const bool bits = layer.blob().signs_in;
        if (x->dim() != 4) return "the input of a 1-bit convolution is no batch of images";
        const int order = bits ? (is_plain(*x) ? 1 : -1) : is_channels_last(*x);
        if (order < 0) return "the input of a 1-bit convolution lies in memory in an order that it does not take";
        if (x->size(bits ? 3 : 1) != (bits ? (layer.c_in() + 31) / 32 : layer.c_in())) return "the input of a 1-bit convolution has another number of channels";
        sizes = {x->size(0), x->size(bits ? 1 : 2), x->size(bits ? 2 : 3)};
        // with signs on either side, floats are NHWC
        channels_last = order == 1 || signs;
        const bool out_last = channels_last || !layer.blob().on_bits();
        if (signs && !bits && order != 1) return "the input of a 1-bit convolution that gives signs must be NHWC";
        int64_t h = 0, w = 0;
        if (!layer.output_size(sizes, &h, &w)) return "the input is too small or too large for a layer";
        const auto n = SizesType(sizes.n), height = SizesType(h), width = SizesType(w);
        const SizesType floats_shape[] = {n, SizesType(layer.c_out()), height, width};
        const SizesType signs_shape[] = {n, height, width, 1};
        if (const char* wrong = resize(layer, floats_shape, 4, signs_shape, 4)) return wrong;
        for (const Tensor* image : {residual, static_cast<const Tensor*>(floats)})
            if (image && !lies_as(*image, out_last)) return "the tensors of a convolution lie in memory in different orders";
        return nullptr;
    }

    // Give the results their sizes, whose channels are put in here, and check those of the shortcut.
    const char* resize(const rebnn::Layer& layer, const SizesType* like, size_t dims, const SizesType* signs_like, size_t signs_dims) {
        SizesType shape[kDims], words[kDims];
        for (size_t i = 0; i < dims; ++i) shape[i] = like[i];
        for (size_t i = 0; i < signs_dims; ++i) words[i] = signs_like[i];
        if (layer.blob().kind == rebnn::Kind::linear) shape[dims - 1] = SizesType(layer.c_out());
        words[signs_dims - 1] = SizesType((layer.c_out() + 31) / 32);
        if (floats && et::resize_tensor(*floats, {shape, dims}) != et::Error::Ok) return "a 1-bit layer's result does not fit the memory that was planned for it";
        if (signs && et::resize_tensor(*signs, {words, signs_dims}) != et::Error::Ok) return "a 1-bit layer's signs do not fit the memory that was planned for them";
        if (!residual) return nullptr;
        bool same = size_t(residual->dim()) == dims;
        for (size_t i = 0; same && i < dims; ++i) same = residual->size(ssize_t(i)) == shape[i];
        return same ? nullptr : "the shortcut of a 1-bit layer has another shape than its result";
    }

    static constexpr size_t kDims = 16;
};

class RebnnBackend final : public et::BackendInterface {
public:
    bool is_available() const override { return rebnn_abi_version() == REBNN_ABI_VERSION; }

    et::Result<et::DelegateHandle*> init(et::BackendInitContext&, et::FreeableBuffer* processed,
                                         et::ArrayRef<et::CompileSpec>) const override {
        auto* layer = new (std::nothrow) rebnn::Layer;
        const char* wrong = layer ? layer->prepare(processed->data(), processed->size()) : "out of memory";
        processed->Free();
        if (!wrong) return layer;
        delete layer;
        rebnn::set_last_error(wrong);
        ET_LOG(Error, "%s", wrong);
        return et::Error::InvalidProgram;
    }

    et::Error execute(et::BackendExecutionContext&, et::DelegateHandle* handle, et::Span<et::EValue*> args) const override {
        const double begin = rebnn::thread_milliseconds();
        auto& layer = *static_cast<rebnn::Layer*>(handle);
        Call call;
        const char* wrong = call.take(layer, args);
        if (!wrong && call.sizes.n > 0 && call.sizes.w > 0) {
            wrong = layer.run(call.x->const_data_ptr(), call.sizes, call.channels_last,
                              call.residual ? call.residual->const_data_ptr<float>() : nullptr,
                              call.floats ? call.floats->mutable_data_ptr<float>() : nullptr,
                              call.signs ? reinterpret_cast<uint32_t*>(call.signs->mutable_data_ptr<int32_t>()) : nullptr,
                              rebnn::threads());
        }
        rebnn::add_milliseconds_in_layers(rebnn::thread_milliseconds() - begin);
        if (!wrong) return et::Error::Ok;
        rebnn::set_last_error(wrong);
        ET_LOG(Error, "%s", wrong);
        return et::Error::InvalidArgument;
    }

    void destroy(et::DelegateHandle* handle) const override { delete static_cast<rebnn::Layer*>(handle); }
};

RebnnBackend backend;
[[maybe_unused]] const auto registered = et::register_backend({"RebnnBackend", &backend});

}  // namespace
