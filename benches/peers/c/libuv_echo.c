/* libuv: a loop per thread, each with its own listener and one buffer for all its connections.
 *
 * usage: libuv_echo PORT THREADS; says where it listens
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <uv.h>

enum { BUFFER = 64 << 10, BACKLOG = 4096 };

/* What a socket did not take at once; nothing more is read from it until it has. */
typedef struct {
    uv_write_t request;
    char bytes[];
} unsent_t;

static void must(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "cannot %s\n", what);
        exit(1);
    }
}

static void on_close(uv_handle_t *handle) { free(handle); }

static void lend(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    (void)suggested;
    *buffer = uv_buf_init(handle->loop->data, BUFFER);
}

static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer);

static void on_written(uv_write_t *request, int status) {
    uv_stream_t *stream = request->handle;
    free(request->data);
    if (status < 0) {
        if (!uv_is_closing((uv_handle_t *)stream)) uv_close((uv_handle_t *)stream, on_close);
        return;
    }
    uv_read_start(stream, lend, on_read);
}

static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer) {
    if (length == 0) return; /* nothing there after all */
    if (length < 0) {
        uv_close((uv_handle_t *)stream, on_close);
        return;
    }
    uv_buf_t whole = uv_buf_init(buffer->base, (unsigned)length);
    int sent = uv_try_write(stream, &whole, 1);
    if (sent == length) return;
    if (sent < 0) sent = 0; /* uv_write says if it is more than a full socket */
    size_t rest = (size_t)(length - sent);
    unsent_t *unsent = malloc(sizeof *unsent + rest);
    must(unsent != NULL, "allocate");
    unsent->request.data = unsent;
    memcpy(unsent->bytes, buffer->base + sent, rest);
    uv_buf_t later = uv_buf_init(unsent->bytes, (unsigned)rest);
    uv_read_stop(stream);
    if (uv_write(&unsent->request, stream, &later, 1, on_written) != 0) {
        free(unsent);
        uv_close((uv_handle_t *)stream, on_close);
    }
}

static void on_connection(uv_stream_t *listener, int status) {
    if (status < 0) return;
    uv_tcp_t *client = malloc(sizeof *client);
    must(client != NULL && uv_tcp_init(listener->loop, client) == 0, "make a handle");
    if (uv_accept(listener, (uv_stream_t *)client) != 0) {
        uv_close((uv_handle_t *)client, on_close);
        return;
    }
    uv_tcp_nodelay(client, 1);
    uv_read_start((uv_stream_t *)client, lend, on_read);
}

static int bound(uint16_t port) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    must(fd >= 0, "open a socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(bind(fd, (struct sockaddr *)&address, sizeof address) == 0, "bind");
    return fd;
}

static void serve(void *argument) {
    int fd = *(int *)argument;
    uv_loop_t loop;
    uv_tcp_t listener;
    must(uv_loop_init(&loop) == 0, "make a loop");
    loop.data = malloc(BUFFER);
    must(loop.data != NULL, "allocate");
    must(uv_tcp_init(&loop, &listener) == 0 && uv_tcp_open(&listener, fd) == 0, "adopt a socket");
    must(uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection) == 0, "listen");
    uv_run(&loop, UV_RUN_DEFAULT);
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: %s PORT THREADS\n", arguments[0]);
        return 2;
    }
    int threads = atoi(arguments[2]);
    must(threads > 0, "serve without THREADS");
    int *sockets = calloc((size_t)threads, sizeof *sockets);
    must(sockets != NULL, "allocate");
    sockets[0] = bound((uint16_t)atoi(arguments[1]));
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    must(getsockname(sockets[0], (struct sockaddr *)&address, &length) == 0, "find the port");
    for (int i = 1; i < threads; i++) sockets[i] = bound(ntohs(address.sin_port));
    for (int i = 1; i < threads; i++) {
        uv_thread_t thread;
        must(uv_thread_create(&thread, serve, &sockets[i]) == 0, "start a thread");
    }
    must(listen(sockets[0], BACKLOG) == 0, "listen");
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    serve(&sockets[0]);
}
