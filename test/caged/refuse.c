// Preloaded into the caged node: these take the place of the calls that node no longer exports (cage.ts). Electron refuses them in the
// same way, because its V8 keeps all buffers in memory of its own.
#include <stddef.h>

enum { NO_EXTERNAL_BUFFERS_ALLOWED = 22 }; // napi_no_external_buffers_allowed in js_native_api_types.h

int napi_create_external_buffer(void) { return NO_EXTERNAL_BUFFERS_ALLOWED; }
int napi_create_external_arraybuffer(void) { return NO_EXTERNAL_BUFFERS_ALLOWED; }
int node_api_create_external_sharedarraybuffer(void) { return NO_EXTERNAL_BUFFERS_ALLOWED; }
