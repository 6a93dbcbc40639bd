/* A stand-in for libcuda.so.1: real pycuda and our runtime run on it without a GPU.
 *
 * Memory of the device is memory of the host. Streams are as late as CUDA allows: what
 * is put into one is done only when somebody waits for it, by a stream, an event, the
 * context or a free. So whoever reads too early, or forgets that one stream must wait
 * for another, reads old bytes. The context stack is real, per thread. Capture records,
 * a graph replays. What is alive is counted.
 *
 * Handles are checked as far as they can be: a call without a current context gives
 * 201, one that a capture forbids 900, and after standin_fail(code) everything fails.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int Result;
typedef unsigned long long Address;
enum { NO_CONTEXT = 201, INVALID = 1, CAPTURING = 900, NOT_CAPTURING = 901 };
enum Kind { COPY, SET, CALL, RECORD, WAIT, REPLAY };

struct Event { struct Stream *in; long due; long done; struct timespec at; };
struct Op {
    enum Kind kind;
    void *to; const void *from; size_t bytes; int value;
    void (*call)(void *); void *data;
    struct Event *event; long ticket;
    struct Graph *graph;
};
struct Graph { struct Op *ops; size_t count, room; };
struct Stream {
    struct Graph queue; size_t done; struct Graph *capture;
    pthread_t owner; struct Stream *next;
};

static __thread void *stack[64];
static __thread int depth;
static char primary[8];
static atomic_long memory, pinned, streams, events, graphs, retained, replays, launches;
static int failure;
static struct Stream *all;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the list of streams */

#define ALIVE if (failure) return failure
#define CURRENT ALIVE; if (!depth) return NO_CONTEXT

static void append(struct Graph *list, struct Op op) {
    if (list->count == list->room) {
        list->room = list->room ? 2 * list->room : 16;
        list->ops = realloc(list->ops, list->room * sizeof op);
    }
    list->ops[list->count++] = op;
}

static void drain(struct Stream *stream, size_t until);

static void perform(struct Op *op) {
    switch (op->kind) {
    case COPY: memmove(op->to, op->from, op->bytes); break;
    case SET: memset(op->to, op->value, op->bytes); break;
    case CALL: op->call(op->data); launches++; break;
    case RECORD:
        clock_gettime(CLOCK_MONOTONIC, &op->event->at);
        if (op->event->done < op->ticket) op->event->done = op->ticket;
        break;
    case WAIT:
        if (op->event->in && op->event->done < op->ticket)
            drain(op->event->in, SIZE_MAX);
        break;
    case REPLAY:
        replays++;
        for (size_t i = 0; i < op->graph->count; i++) perform(&op->graph->ops[i]);
        break;
    }
}

static void drain(struct Stream *stream, size_t until) {
    while (stream->done < stream->queue.count && stream->done < until) {
        struct Op op = stream->queue.ops[stream->done++];
        perform(&op);
    }
    if (stream->done == stream->queue.count) stream->done = stream->queue.count = 0;
}

/* Those of this thread: an engine and all it owns belong to one. */
static void drain_all(void) {
    struct Stream *own[64];
    size_t count = 0;
    pthread_mutex_lock(&lock);
    for (struct Stream *s = all; s && count < 64; s = s->next)
        if (pthread_equal(s->owner, pthread_self())) own[count++] = s;
    pthread_mutex_unlock(&lock);
    for (size_t i = 0; i < count; i++) drain(own[i], SIZE_MAX);
}

static Result submit(struct Stream *stream, struct Op op) {
    CURRENT;
    if (!stream) perform(&op);
    else append(stream->capture ? stream->capture : &stream->queue, op);
    return 0;
}

static Result finish(struct Stream *stream) {
    if (stream && stream->capture) return CAPTURING;
    if (stream) drain(stream, SIZE_MAX); else drain_all();
    return 0;
}

Result cuInit(unsigned flags) { (void)flags; ALIVE; return 0; }
Result cuDriverGetVersion(int *version) { *version = 13000; return 0; }
Result cuDeviceGetCount(int *count) { *count = 1; return 0; }
Result cuDeviceGet(int *device, int ordinal) { *device = 0; return ordinal ? 101 : 0; }
Result cuDeviceGetName(char *name, int room, int device) {
    (void)device; strncpy(name, "stand-in, no GPU", room); return 0;
}
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = 8ull << 30; return 0; }
Result cuDeviceComputeCapability(int *major, int *minor, int device) {
    (void)device; *major = 8; *minor = 7; return 0;
}
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device; /* 75, 76: compute capability; 18: integrated */
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18 ? getenv("STANDIN_INTEGRATED") != 0 : 1;
    return 0;
}

Result cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; ALIVE; retained++; *context = primary; return 0; }
Result cuDevicePrimaryCtxRelease_v2(int device) { (void)device; retained--; return 0; }
Result cuCtxPushCurrent_v2(void *context) { stack[depth++] = context; return 0; }
Result cuCtxPopCurrent_v2(void **context) {
    if (!depth) return NO_CONTEXT;
    depth--;
    if (context) *context = stack[depth];
    return 0;
}
Result cuCtxDetach(void *context) { (void)context; return NO_CONTEXT; } /* not of a primary one */
Result cuCtxGetCurrent(void **context) { *context = depth ? stack[depth - 1] : 0; return 0; }
Result cuCtxGetDevice(int *device) { CURRENT; *device = 0; return 0; }
Result cuCtxSynchronize(void) { CURRENT; return finish(0); }
Result cuMemGetInfo_v2(size_t *available, size_t *total) { CURRENT; *available = 4ull << 30; *total = 8ull << 30; return 0; }

static void *allocate(size_t bytes) { /* never zeros: nobody may count on them */
    void *place = malloc(bytes ? bytes : 1);
    memset(place, 0xA5, bytes);
    return place;
}
Result cuMemAlloc_v2(Address *address, size_t bytes) { CURRENT; *address = (Address)allocate(bytes); memory++; return 0; }
Result cuMemFree_v2(Address address) { CURRENT; finish(0); free((void *)address); memory--; return 0; }
Result cuMemHostAlloc(void **place, size_t bytes, unsigned flags) { (void)flags; CURRENT; *place = allocate(bytes); pinned++; return 0; }
Result cuMemAllocHost_v2(void **place, size_t bytes) { return cuMemHostAlloc(place, bytes, 0); }
Result cuMemFreeHost(void *place) { CURRENT; finish(0); free(place); pinned--; return 0; }
Result cuMemHostGetDevicePointer_v2(Address *address, void *place, unsigned flags) { (void)flags; CURRENT; *address = (Address)place; return 0; }

static Result copy(void *to, const void *from, size_t bytes, struct Stream *stream) {
    struct Op op = {.kind = COPY, .to = to, .from = from, .bytes = bytes};
    return submit(stream, op);
}
Result cuMemcpyHtoD_v2(Address to, const void *from, size_t bytes) { return copy((void *)to, from, bytes, 0); }
Result cuMemcpyDtoH_v2(void *to, Address from, size_t bytes) { return copy(to, (void *)from, bytes, 0); }
Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, struct Stream *s) { return copy((void *)to, from, bytes, s); }
Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, struct Stream *s) { return copy(to, (void *)from, bytes, s); }
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, struct Stream *s) { return copy((void *)to, (void *)from, bytes, s); }
Result cuMemsetD8Async(Address to, unsigned char value, size_t bytes, struct Stream *s) {
    struct Op op = {.kind = SET, .to = (void *)to, .bytes = bytes, .value = value};
    return submit(s, op);
}
Result cuLaunchHostFunc(struct Stream *s, void (*call)(void *), void *data) {
    struct Op op = {.kind = CALL, .call = call, .data = data};
    return submit(s, op);
}

Result cuStreamCreate(struct Stream **stream, unsigned flags) {
    CURRENT;
    if (flags != 1) return INVALID; /* one that waits for the default stream */
    *stream = calloc(1, sizeof **stream);
    (*stream)->owner = pthread_self();
    pthread_mutex_lock(&lock);
    (*stream)->next = all;
    all = *stream;
    streams++;
    pthread_mutex_unlock(&lock);
    return 0;
}
Result cuStreamDestroy_v2(struct Stream *stream) {
    CURRENT;
    finish(stream);
    pthread_mutex_lock(&lock);
    for (struct Stream **s = &all; *s; s = &(*s)->next)
        if (*s == stream) { *s = stream->next; break; }
    streams--;
    pthread_mutex_unlock(&lock);
    free(stream->queue.ops);
    free(stream);
    return 0;
}
Result cuStreamSynchronize(struct Stream *stream) { CURRENT; return finish(stream); }
Result cuStreamQuery(struct Stream *stream) { CURRENT; return stream->done == stream->queue.count ? 0 : 600; }
Result cuStreamWaitEvent(struct Stream *stream, struct Event *event, unsigned flags) {
    (void)flags; CURRENT;
    if (stream->capture) return CAPTURING;
    struct Op op = {.kind = WAIT, .event = event, .ticket = event->due};
    return submit(stream, op);
}

Result cuEventCreate(struct Event **event, unsigned flags) { (void)flags; CURRENT; *event = calloc(1, sizeof **event); events++; return 0; }
Result cuEventDestroy_v2(struct Event *event) { CURRENT; finish(0); free(event); events--; return 0; }
Result cuEventRecord(struct Event *event, struct Stream *stream) {
    CURRENT;
    event->in = stream;
    struct Op op = {.kind = RECORD, .event = event, .ticket = ++event->due};
    return submit(stream, op);
}
Result cuEventSynchronize(struct Event *event) {
    CURRENT;
    if (event->in && event->done < event->due) return finish(event->in);
    return 0;
}
Result cuEventElapsedTime_v2(float *ms, struct Event *a, struct Event *b) {
    CURRENT;
    if (a->done < a->due || b->done < b->due) return 600;
    *ms = (b->at.tv_sec - a->at.tv_sec) * 1e3f + (b->at.tv_nsec - a->at.tv_nsec) * 1e-6f;
    return 0;
}
Result cuEventElapsedTime(float *ms, struct Event *a, struct Event *b) { return cuEventElapsedTime_v2(ms, a, b); }
Result cuEventQuery(struct Event *event) { CURRENT; return event->done < event->due ? 600 : 0; }

Result cuStreamBeginCapture_v2(struct Stream *stream, int mode) {
    CURRENT;
    if (mode != 1 || stream->capture) return NOT_CAPTURING;
    stream->capture = calloc(1, sizeof *stream->capture);
    return 0;
}
Result cuStreamEndCapture(struct Stream *stream, struct Graph **graph) {
    CURRENT;
    if (!stream->capture) return NOT_CAPTURING;
    *graph = stream->capture;
    stream->capture = 0;
    return 0;
}
Result cuGraphGetNodes(struct Graph *graph, void **nodes, size_t *count) { (void)nodes; CURRENT; *count = graph->count; return 0; }
Result cuGraphInstantiateWithFlags(struct Graph **made, struct Graph *graph, Address flags) {
    (void)flags; CURRENT;
    *made = calloc(1, sizeof **made);
    for (size_t i = 0; i < graph->count; i++) append(*made, graph->ops[i]);
    graphs++;
    return 0;
}
Result cuGraphLaunch(struct Graph *graph, struct Stream *stream) {
    struct Op op = {.kind = REPLAY, .graph = graph};
    return submit(stream, op);
}
Result cuGraphExecDestroy(struct Graph *graph) { CURRENT; finish(0); free(graph->ops); free(graph); graphs--; return 0; }
Result cuGraphDestroy(struct Graph *graph) { CURRENT; free(graph->ops); free(graph); return 0; }
Result cuGetErrorString(int code, const char **text) { *text = code == 201 ? "no context is current" : "failed"; return 0; }
Result cuGetErrorName(int code, const char **text) { return cuGetErrorString(code, text); }

/* For tests. */
int standin_depth(void) { return depth; }
void standin_fail(int code) { failure = code; }
void standin_counts(long *into) {
    long counts[] = {memory, pinned, streams, events, graphs, retained, replays, launches};
    memcpy(into, counts, sizeof counts);
}
