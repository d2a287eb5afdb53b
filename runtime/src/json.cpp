#include "json.hpp"

#include <cmath>
#include <cstdint>
#include <locale>
#include <sstream>
#include <stdexcept>

namespace rebnn {
namespace {

[[noreturn]] void malformed(const char* what) { throw std::runtime_error(std::string("the program's card is malformed: ") + what); }

void append_utf8(std::string& out, uint32_t code) {
    if (code < 0x80) {
        out += char(code);
    } else if (code < 0x800) {
        out += char(0xC0 | code >> 6);
        out += char(0x80 | (code & 63));
    } else if (code < 0x10000) {
        out += char(0xE0 | code >> 12);
        out += char(0x80 | (code >> 6 & 63));
        out += char(0x80 | (code & 63));
    } else {
        out += char(0xF0 | code >> 18);
        out += char(0x80 | (code >> 12 & 63));
        out += char(0x80 | (code >> 6 & 63));
        out += char(0x80 | (code & 63));
    }
}

}  // namespace

class JsonReader {
public:
    explicit JsonReader(std::string_view text) : text_(text) {}

    Json whole() {
        Json value = read(0);
        space();
        if (at_ != text_.size()) malformed("something follows its end");
        return value;
    }

private:
    Json read(int depth) {
        if (depth > 32) malformed("it is nested too deeply");
        Json value;
        space();
        const char first = peek();
        if (first == '{') {
            value.kind_ = Json::Kind::object;
            ++at_;
            for (bool more = !take('}'); more; more = next('}')) {
                space();
                std::string name = text();
                if (!take(':')) malformed("a name without a value");
                value.object_[std::move(name)] = read(depth + 1);
            }
        } else if (first == '[') {
            value.kind_ = Json::Kind::array;
            ++at_;
            for (bool more = !take(']'); more; more = next(']')) value.array_.push_back(read(depth + 1));
        } else if (first == '"') {
            value.kind_ = Json::Kind::string;
            value.string_ = text();
        } else if (word("true") || word("false")) {
            value.kind_ = Json::Kind::boolean;
            value.boolean_ = first == 't';
        } else if (!word("null")) {
            value.kind_ = Json::Kind::number;
            value.number_ = number();
        }
        return value;
    }

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    void space() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) ++at_;
    }

    bool take(char wanted) {
        space();
        if (peek() != wanted) return false;
        ++at_;
        return true;
    }

    // Behind an element: whether another one follows.
    bool next(char end) {
        if (take(',')) return true;
        if (!take(end)) malformed("a list without an end");
        return false;
    }

    bool word(std::string_view wanted) {
        if (text_.substr(at_, wanted.size()) != wanted) return false;
        at_ += wanted.size();
        return true;
    }

    double number() {
        const size_t begin = at_;
        while (at_ < text_.size() && std::string_view("+-.eE0123456789").find(text_[at_]) != std::string_view::npos) ++at_;
        const std::string digits(text_.substr(begin, at_ - begin));
        std::istringstream in(digits);
        in.imbue(std::locale::classic());  // strtod would ask the user's locale for its decimal comma
        double value = 0;
        if (!(in >> value) || in.peek() != EOF || !std::isfinite(value)) malformed("a number that is none");
        return value;
    }

    uint32_t hex() {
        uint32_t value = 0;
        for (int i = 0; i < 4; ++i, ++at_) {
            const char digit = peek();
            const int number = digit >= '0' && digit <= '9' ? digit - '0' : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
            if (number < 0) malformed("an escape without its number");
            value = value * 16 + uint32_t(number);
        }
        return value;
    }

    std::string text() {
        std::string out;
        if (peek() != '"') malformed("a name without quotes");
        for (++at_; peek() != '"'; ) {
            if (at_ >= text_.size()) malformed("a text without an end");
            const char letter = text_[at_++];
            if (letter != '\\') {
                out += letter;
                continue;
            }
            const char escaped = peek();
            ++at_;
            const size_t plain = std::string_view("\"\\/bfnrt").find(escaped);
            if (escaped == 'u') {
                uint32_t code = hex();
                if (code >= 0xD800 && code < 0xDC00 && word("\\u")) code = 0x10000 + ((code - 0xD800) << 10) + ((hex() - 0xDC00) & 0x3FF);
                append_utf8(out, code);
            } else if (escaped && plain != std::string_view::npos) {
                out += "\"\\/\b\f\n\r\t"[plain];
            } else {
                malformed("an unknown escape");
            }
        }
        ++at_;
        return out;
    }

    std::string_view text_;
    size_t at_ = 0;
};

Json Json::parse(std::string_view text) { return JsonReader(text).whole(); }

bool Json::boolean() const {
    if (kind_ != Kind::boolean) malformed("true or false is missing");
    return boolean_;
}

double Json::number() const {
    if (kind_ != Kind::number) malformed("a number is missing");
    return number_;
}

long long Json::integer(long long least, long long most) const {
    const double value = number();
    if (value != std::floor(value) || value < double(least) || value > double(most)) malformed("a number is out of range");
    return static_cast<long long>(value);
}

const std::string& Json::string() const {
    if (kind_ != Kind::string) malformed("a text is missing");
    return string_;
}

const std::vector<Json>& Json::array() const {
    if (kind_ != Kind::array) malformed("a list is missing");
    return array_;
}

std::vector<float> Json::floats() const {
    std::vector<float> values;
    for (const Json& value : array()) values.push_back(float(value.number()));
    return values;
}

const Json& Json::operator[](const char* name) const {
    static const Json null;
    if (kind_ != Kind::object) malformed("an object is missing");
    const auto found = object_.find(name);
    return found == object_.end() ? null : found->second;
}

}  // namespace rebnn
