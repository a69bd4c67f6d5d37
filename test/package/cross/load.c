/*
 * Loads an addon as Node does, without a Node: the calls of N-API that netio's plain functions use, and a driver that
 * plays recorded calls against it.
 *
 *     load ADDON.node CALLS
 *
 * CALLS is a sequence of records, all numbers 32 bits little-endian:
 *     verb (0 checksum, 1 split, 2 join) │ length of source │ source │ length of frame │ frame
 *     │ checksum: offset, length, seed, answer
 *     │ split, join: room in target │ 12 fields │ answer │ 12 fields afterwards │ bytes of target up to the answer
 * Beside them a descriptor is made and closed.
 * Says how many calls answered as recorded; status 1 at the first that did not.
 */

#define _GNU_SOURCE
#define NAPI_VERSION 8

#include <dlfcn.h>
#include <node_api.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIELDS = 12, CALLS_MAX = 64, ARGS_MAX = 8 };

/* A value of JavaScript: a number, or a view on bytes or 32-bit numbers. */
struct napi_value__ {
  double number;
  void *data;
  size_t length;
  napi_typedarray_type type;
  bool is_array;
};

struct napi_callback_info__ {
  napi_value args[ARGS_MAX];
  size_t count;
  void *data;
};

static struct {
  const char *name;
  napi_callback call;
  void *data;
} functions[CALLS_MAX];
static size_t function_count;
static struct napi_value__ answer;
static const char *thrown;

#define EXPORTED __attribute__((visibility("default")))

EXPORTED napi_status napi_get_cb_info(napi_env env, napi_callback_info info, size_t *count, napi_value *args,
                                      napi_value *self, void **data) {
  (void)env, (void)self;
  for (size_t at = 0; at < *count && at < info->count; at++) args[at] = info->args[at];
  *count = info->count;
  *data = info->data;
  return napi_ok;
}

EXPORTED napi_status napi_typeof(napi_env env, napi_value value, napi_valuetype *type) {
  (void)env;
  *type = value->is_array ? napi_object : napi_number;
  return napi_ok;
}

EXPORTED napi_status napi_get_value_double(napi_env env, napi_value value, double *number) {
  (void)env;
  *number = value->number;
  return napi_ok;
}

EXPORTED napi_status napi_is_typedarray(napi_env env, napi_value value, bool *is) {
  (void)env;
  *is = value->is_array;
  return napi_ok;
}

EXPORTED napi_status napi_get_typedarray_info(napi_env env, napi_value value, napi_typedarray_type *type,
                                              size_t *length, void **data, napi_value *buffer, size_t *offset) {
  (void)env, (void)buffer, (void)offset;
  *type = value->type;
  *length = value->length;
  *data = value->data;
  return napi_ok;
}

EXPORTED napi_status napi_create_int64(napi_env env, int64_t number, napi_value *result) {
  (void)env;
  answer = (struct napi_value__){ .number = (double)number };
  *result = &answer;
  return napi_ok;
}

EXPORTED napi_status napi_create_uint32(napi_env env, uint32_t number, napi_value *result) {
  return napi_create_int64(env, number, result);
}

EXPORTED napi_status napi_get_undefined(napi_env env, napi_value *result) {
  return napi_create_int64(env, 0, result);
}

EXPORTED napi_status napi_create_function(napi_env env, const char *name, size_t length, napi_callback call,
                                          void *data, napi_value *result) {
  (void)env, (void)name, (void)length;
  functions[function_count].call = call;
  functions[function_count].data = data;
  *result = &answer;
  return napi_ok;
}

EXPORTED napi_status napi_set_named_property(napi_env env, napi_value object, const char *name, napi_value value) {
  (void)env, (void)object, (void)value;
  if (function_count == CALLS_MAX) return napi_generic_failure;
  functions[function_count++].name = name;
  return napi_ok;
}

static napi_status throws(const char *text) {
  thrown = text;
  return napi_ok;
}

#define THROW(name)                                                            \
  EXPORTED napi_status name(napi_env env, const char *code, const char *text) { \
    (void)env, (void)code;                                                     \
    return throws(text);                                                       \
  }
THROW(napi_throw_error)
THROW(napi_throw_type_error)
THROW(napi_throw_range_error)

EXPORTED napi_status napi_set_instance_data(napi_env env, void *data, napi_finalize finalize, void *hint) {
  (void)env, (void)data, (void)finalize, (void)hint;
  return napi_ok;
}

/* Readiness is a thread that calls into Node: nothing here waits for it, so that these are only there to be found. */
EXPORTED void unused(void) {
  abort();
}

#define UNUSED(name) __asm__(".globl " #name "\n.type " #name ", %function\n.set " #name ", unused\n");
UNUSED(napi_call_function)
UNUSED(napi_call_threadsafe_function)
UNUSED(napi_create_reference)
UNUSED(napi_create_string_utf8)
UNUSED(napi_create_threadsafe_function)
UNUSED(napi_get_reference_value)
UNUSED(napi_ref_threadsafe_function)
UNUSED(napi_release_threadsafe_function)
UNUSED(napi_unref_threadsafe_function)
UNUSED(napi_remove_env_cleanup_hook)

EXPORTED napi_status napi_add_env_cleanup_hook(napi_env env, void (*call)(void *), void *data) {
  (void)env, (void)call, (void)data;
  return napi_ok;
}

static double call(const char *name, size_t count, struct napi_value__ *values) {
  for (size_t at = 0; at < function_count; at++) {
    if (strcmp(functions[at].name, name) != 0) continue;
    struct napi_callback_info__ info = { .count = count, .data = functions[at].data };
    for (size_t which = 0; which < count; which++) info.args[which] = &values[which];
    thrown = NULL;
    napi_value result = functions[at].call(NULL, &info);
    if (thrown != NULL || result == NULL) {
      fprintf(stderr, "%s: %s\n", name, thrown ? thrown : "no answer");
      exit(1);
    }
    return result->number;
  }
  fprintf(stderr, "The addon has no function %s\n", name);
  exit(1);
}

static struct napi_value__ of_number(double number) {
  return (struct napi_value__){ .number = number };
}

static struct napi_value__ of_bytes(void *data, size_t length) {
  return (struct napi_value__){ .data = data, .length = length, .type = napi_uint8_array, .is_array = true };
}

static struct napi_value__ of_fields(int32_t *data) {
  return (struct napi_value__){ .data = data, .length = FIELDS, .type = napi_int32_array, .is_array = true };
}

static uint8_t *at, *end;

static uint8_t *take(size_t length) {
  if ((size_t)(end - at) < length) {
    fprintf(stderr, "The calls are cut off\n");
    exit(1);
  }
  at += length;
  return at - length;
}

static uint32_t take32(void) {
  uint8_t *from = take(4);
  return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static void differs(unsigned number, const char *what) {
  fprintf(stderr, "Call %u: its %s differs\n", number, what);
  exit(1);
}

static void play(unsigned number) {
  uint32_t verb = take32();
  uint32_t length = take32();
  uint8_t *source = take(length);
  uint32_t frame_length = take32();
  uint8_t *frame = take(frame_length);
  if (verb == 0) {
    uint32_t offset = take32(), span = take32(), seed = take32();
    struct napi_value__ values[] = { of_bytes(source, length), of_number(offset), of_number(span), of_number(seed) };
    if ((uint32_t)call("checksum", 4, values) != take32()) differs(number, "checksum");
    return;
  }
  uint32_t room = take32();
  uint8_t *target = calloc(1, room ? room : 1);
  int32_t fields[FIELDS];
  for (int field = 0; field < FIELDS; field++) fields[field] = (int32_t)take32();
  struct napi_value__ values[] = { of_bytes(source, length), of_bytes(target, room), of_bytes(frame, frame_length),
                                   of_fields(fields) };
  double written = call(verb == 1 ? "split" : "join", 4, values);
  uint32_t wanted = take32();
  if (written != (double)wanted) differs(number, "length");
  for (int field = 0; field < FIELDS; field++)
    if (fields[field] != (int32_t)take32()) differs(number, "field");
  if (memcmp(target, take(wanted), wanted) != 0) differs(number, "packet");
  free(target);
}

/* A descriptor of its own, from its making to its end. */
static void descriptors(void) {
  double handle = call("event", 0, NULL);
  if (handle <= 0) differs(0, "descriptor");
  struct napi_value__ number[] = { of_number(handle) };
  if (call("descriptor", 1, number) < 0) differs(0, "number");
  call("close", 1, number);
}

int main(int count, char **words) {
  if (count != 3) return 2;
  void *addon = dlopen(words[1], RTLD_NOW);
  if (addon == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  napi_value (*start)(napi_env, napi_value);
  *(void **)&start = dlsym(addon, "napi_register_module_v1");
  if (start == NULL || start(NULL, &answer) == NULL) {
    fprintf(stderr, "The addon does not start\n");
    return 1;
  }
  FILE *file = fopen(words[2], "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) return 1;
  long size = ftell(file);
  rewind(file);
  at = malloc((size_t)size);
  end = at + fread(at, 1, (size_t)size, file);
  unsigned number = 0;
  while (at < end) play(++number);
  descriptors();
  printf("%u calls answered as recorded\n", number);
  return 0;
}
