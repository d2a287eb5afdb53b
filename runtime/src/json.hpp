// JSON as a program's card has it: read once, then asked for members. Nothing of it is trusted.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace rebnn {

class Json {
public:
    enum class Kind { null, boolean, number, string, array, object };

    // Throws std::runtime_error with a sentence for what is not JSON, or nested deeper than 32.
    static Json parse(std::string_view text);

    Kind kind() const { return kind_; }
    bool is_null() const { return kind_ == Kind::null; }

    // Each throws std::runtime_error where the value is of another kind.
    bool boolean() const;
    double number() const;
    // A whole number between the two.
    long long integer(long long least, long long most) const;
    const std::string& string() const;
    const std::vector<Json>& array() const;
    std::vector<float> floats() const;
    // The member; null where an object lacks it.
    const Json& operator[](const char* name) const;

private:
    friend class JsonReader;
    Kind kind_ = Kind::null;
    bool boolean_ = false;
    double number_ = 0;
    std::string string_;
    std::vector<Json> array_;
    std::map<std::string, Json> object_;
};

}  // namespace rebnn
