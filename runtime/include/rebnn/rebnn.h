/* rebnn for C: what rebnn/runtime.hpp does, without C++ types and exceptions.
 *
 * A function that can fail returns NULL or a negative number then, and rebnn_error() is the sentence, of this thread,
 * until its next call. A model is for one thread at a time. */
#ifndef REBNN_H
#define REBNN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rebnn_classifier rebnn_classifier;

const char* rebnn_error(void);

/* Threads of every model in this process; 1 unless this is called. */
void rebnn_threads(int32_t threads);

/* NULL if the file cannot be used. */
rebnn_classifier* rebnn_classifier_open(const char* path);
void rebnn_classifier_close(rebnn_classifier* model);

/* Number of classes; the name of one, or NULL where the file names none. */
int32_t rebnn_classifier_classes(const rebnn_classifier* model);
const char* rebnn_classifier_class(const rebnn_classifier* model, int32_t index);

/* Scores of all classes, which add up to 1, into `scores`, as many floats as there are classes; returns the index of the
 * best one. `pixels` are height rows of width pixels of 8 bits a channel, channels interleaved, RGB where there are three. */
int32_t rebnn_classifier_run(rebnn_classifier* model, const uint8_t* pixels, int32_t width, int32_t height, int32_t channels,
                             float* scores, int32_t classes);

/* The same for an image file. */
int32_t rebnn_classifier_run_file(rebnn_classifier* model, const char* image, float* scores, int32_t classes);

typedef struct rebnn_detector rebnn_detector;

/* Pixels of the image that was given. */
typedef struct rebnn_box {
    float left, top, right, bottom;
    float score;
    int32_t label;
} rebnn_box;

/* NULL if the file cannot be used. */
rebnn_detector* rebnn_detector_open(const char* path);
void rebnn_detector_close(rebnn_detector* model);

/* Number of names of classes, 0 where the file has none; the name of one, or NULL. */
int32_t rebnn_detector_classes(const rebnn_detector* model);
const char* rebnn_detector_class(const rebnn_detector* model, int32_t index);

/* The best boxes, best first, into `boxes`, at most `most` of them; returns how many were found, which may be more.
 * `pixels` as for a classifier. */
int32_t rebnn_detector_run(rebnn_detector* model, const uint8_t* pixels, int32_t width, int32_t height, int32_t channels,
                           rebnn_box* boxes, int32_t most);

/* The same for an image file. */
int32_t rebnn_detector_run_file(rebnn_detector* model, const char* image, rebnn_box* boxes, int32_t most);

#ifdef __cplusplus
}
#endif
#endif
