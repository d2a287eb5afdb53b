// Image files: PPM and PGM by hand, JPEG and PNG through the system's libraries where there are any.
#include <algorithm>
#include <cctype>
#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "rebnn/runtime.hpp"

#ifdef REBNN_JPEG
#include <jpeglib.h>
#endif
#ifdef REBNN_PNG
#include <png.h>
#endif

namespace rebnn {
namespace {

constexpr int64_t kMostPixels = int64_t(1) << 27;

struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, Close>;

Image sized(const std::string& path, int64_t width, int64_t height, int32_t channels) {
    if (width < 1 || height < 1 || width > kMostPixels || height > kMostPixels || width * height > kMostPixels) throw Error(path + " is too large: at most " + std::to_string(kMostPixels) + " pixels");
    return {int32_t(width), int32_t(height), channels, std::vector<uint8_t>(size_t(width * height) * size_t(channels))};
}

// A number of a PPM's header, behind spaces and comments; -1 if there is none.
int64_t header_number(std::FILE* file) {
    int letter = std::fgetc(file);
    while (std::isspace(letter) || letter == '#') {
        if (letter == '#')
            while (letter != '\n' && letter != EOF) letter = std::fgetc(file);
        letter = std::fgetc(file);
    }
    int64_t value = -1;
    for (; std::isdigit(letter) && value < kMostPixels; letter = std::fgetc(file)) value = std::max<int64_t>(value, 0) * 10 + (letter - '0');
    return std::isspace(letter) ? value : -1;
}

Image read_pnm(std::FILE* file, const std::string& path, int32_t channels) {
    const int64_t width = header_number(file), height = header_number(file), most = header_number(file);
    if (width < 1 || height < 1 || most != 255) throw Error(path + " is no PPM or PGM of 8 bits a channel");
    Image image = sized(path, width, height, channels);
    if (std::fread(image.pixels.data(), 1, image.pixels.size(), file) != image.pixels.size()) throw Error(path + " is cut off");
    return image;
}

#ifdef REBNN_JPEG
struct JpegError {
    jpeg_error_mgr base;
    std::jmp_buf back;
    char text[JMSG_LENGTH_MAX];
};

// What is cut off libjpeg only warns of, and makes up the rest.
void remember(j_common_ptr jpeg) {
    auto* error = reinterpret_cast<JpegError*>(jpeg->err);
    (*jpeg->err->format_message)(jpeg, error->text);
    std::longjmp(error->back, 1);
}

// The orientation in a photo's EXIF data, 1 to 8; 1 where there is none, or it is damaged: the photo is then as it is.
int orientation_of(const uint8_t* data, size_t size) {
    constexpr size_t kHead = 6;  // "Exif", two zeros, then TIFF
    if (size < kHead + 8 || std::memcmp(data, "Exif\0\0", kHead) != 0) return 1;
    data += kHead;
    size -= kHead;
    const bool big = data[0] == 'M';
    const auto number = [&](size_t at, size_t bytes) {
        uint32_t value = 0;
        for (size_t i = 0; i < bytes; ++i) value |= uint32_t(data[at + i]) << 8 * (big ? bytes - 1 - i : i);
        return value;
    };
    const size_t fields = number(4, 4);
    if (fields > size - 2) return 1;
    size_t at = fields + 2;
    for (uint32_t count = number(fields, 2); count > 0 && at + 12 <= size; --count, at += 12)
        if (number(at, 2) == 0x0112) {
            const int found = int(number(at + 8, 2));
            return found >= 1 && found <= 8 ? found : 1;
        }
    return 1;
}

// Upright, as Python's readers give it: 2 to 4 are mirrored or upside down, 5 to 8 lie on a side.
Image upright(Image image, int orientation) {
    if (orientation == 1) return image;
    const int32_t w = image.width, h = image.height, c = image.channels;
    const bool lies = orientation >= 5;
    const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    const bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    Image turned{lies ? h : w, lies ? w : h, c, std::vector<uint8_t>(image.pixels.size())};
    uint8_t* out = turned.pixels.data();
    for (int32_t y = 0; y < turned.height; ++y)
        for (int32_t x = 0; x < turned.width; ++x, out += c) {
            const int32_t along = lies ? y : x, down = lies ? x : y;
            const size_t column = size_t(from_right ? w - 1 - along : along), row = size_t(from_below ? h - 1 - down : down);
            std::memcpy(out, image.pixels.data() + (row * size_t(w) + column) * size_t(c), size_t(c));
        }
    return turned;
}

// No object with a destructor may live here: longjmp would pass it by. Null, or what is wrong.
const char* decode_jpeg(std::FILE* file, JpegError* error, Image* image, int* orientation, int64_t most) {
    jpeg_decompress_struct jpeg;
    jpeg.err = jpeg_std_error(&error->base);
    error->base.error_exit = remember;
    error->base.emit_message = [](j_common_ptr common, int level) {
        if (level < 0) remember(common);
    };
    if (setjmp(error->back)) {
        jpeg_destroy_decompress(&jpeg);
        return error->text;
    }
    jpeg_create_decompress(&jpeg);
    jpeg_stdio_src(&jpeg, file);
    jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(&jpeg, TRUE);
    for (jpeg_saved_marker_ptr marker = jpeg.marker_list; marker && *orientation == 1; marker = marker->next)
        *orientation = orientation_of(marker->data, marker->data_length);
    if (int64_t(jpeg.image_width) * jpeg.image_height > most) {
        jpeg_destroy_decompress(&jpeg);
        return "it has too many pixels";
    }
    jpeg.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg);
    image->width = int32_t(jpeg.output_width);
    image->height = int32_t(jpeg.output_height);
    image->channels = 3;
    const size_t row = size_t(jpeg.output_width) * 3;
    image->pixels.resize(row * jpeg.output_height);
    while (jpeg.output_scanline < jpeg.output_height) {
        JSAMPROW line = image->pixels.data() + jpeg.output_scanline * row;
        jpeg_read_scanlines(&jpeg, &line, 1);
    }
    jpeg_finish_decompress(&jpeg);
    jpeg_destroy_decompress(&jpeg);
    return nullptr;
}

Image read_jpeg(std::FILE* file, const std::string& path) {
    JpegError error{};
    Image image;
    int orientation = 1;
    if (const char* wrong = decode_jpeg(file, &error, &image, &orientation, kMostPixels)) throw Error(path + " is no sound JPEG: " + wrong);
    return upright(std::move(image), orientation);
}
#endif

#ifdef REBNN_PNG
Image read_png(std::FILE* file, const std::string& path) {
    png_image png{};
    png.version = PNG_IMAGE_VERSION;
    if (!png_image_begin_read_from_stdio(&png, file)) throw Error(path + " is no sound PNG: " + png.message);
    png.format = PNG_FORMAT_RGB;
    struct Free {
        png_image* png;
        ~Free() { png_image_free(png); }
    } free{&png};
    Image image = sized(path, png.width, png.height, 3);
    const png_color black{0, 0, 0};  // behind what is transparent
    if (!png_image_finish_read(&png, &black, image.pixels.data(), 0, nullptr)) throw Error(path + " is no sound PNG: " + png.message);
    return image;
}
#endif

}  // namespace

Image read_image(const std::string& path) {
    File file(std::fopen(path.c_str(), "rb"));
    if (!file) throw Error(path + " cannot be read: " + std::strerror(errno));
    uint8_t magic[8] = {};
    const size_t size = std::fread(magic, 1, sizeof magic, file.get());
    if (size >= 2 && magic[0] == 'P' && (magic[1] == '6' || magic[1] == '5')) {
        std::fseek(file.get(), 2, SEEK_SET);
        return read_pnm(file.get(), path, magic[1] == '6' ? 3 : 1);
    }
    std::rewind(file.get());
    if (size >= 3 && magic[0] == 0xFF && magic[1] == 0xD8 && magic[2] == 0xFF) {
#ifdef REBNN_JPEG
        return read_jpeg(file.get(), path);
#else
        throw Error(path + " is a JPEG, and this program was built without libjpeg: convert it to PPM, or build it with libjpeg");
#endif
    }
    if (size == 8 && !std::memcmp(magic, "\x89PNG\r\n\x1a\n", 8)) {
#ifdef REBNN_PNG
        return read_png(file.get(), path);
#else
        throw Error(path + " is a PNG, and this program was built without libpng: convert it to PPM, or build it with libpng");
#endif
    }
    throw Error(path + " is no JPEG, PNG, PPM or PGM image");
}

}  // namespace rebnn
