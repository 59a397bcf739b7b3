// An addon that tries what the cage forbids: its exports are the statuses of the three calls that make a buffer of native memory.
#define NAPI_EXPERIMENTAL
#define NODE_API_EXPERIMENTAL_NOGC_ENV_OPT_OUT
#include <node_api.h>

static char memory[3][4096];

static void nothing_to_free(void *data, void *hint) {
  (void)data;
  (void)hint;
}

static void export_status(napi_env env, napi_value exports, const char *name, napi_status status) {
  napi_value number;
  napi_create_int32(env, status, &number);
  napi_set_named_property(env, exports, name, number);
}

NAPI_MODULE_INIT() {
  napi_value ignored;
  export_status(env, exports, "buffer", napi_create_external_buffer(env, sizeof memory[0], memory[0], NULL, NULL, &ignored));
  export_status(env, exports, "arrayBuffer", napi_create_external_arraybuffer(env, memory[1], sizeof memory[1], NULL, NULL, &ignored));
  export_status(env, exports, "sharedArrayBuffer",
                node_api_create_external_sharedarraybuffer(env, memory[2], sizeof memory[2], nothing_to_free, NULL, &ignored));
  return exports;
}
