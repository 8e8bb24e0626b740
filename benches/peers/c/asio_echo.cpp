// Asio, after its asynchronous echo example: a session per connection, one context that THREADS
// threads run.
//
// usage: asio_echo PORT THREADS; says where it listens

#include <asio.hpp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

using asio::ip::tcp;

constexpr std::size_t buffer_size = 16 << 10;
constexpr int backlog = 4096;

class session : public std::enable_shared_from_this<session> {
public:
    explicit session(tcp::socket socket) : socket_(std::move(socket)), buffer_(buffer_size) {}

    // Each operation keeps the session; the first that fails, or the end, lets it go.
    void read() {
        auto self = shared_from_this();
        socket_.async_read_some(asio::buffer(buffer_), [self](asio::error_code error, size_t length) {
            if (!error) self->write(length);
        });
    }

private:
    void write(std::size_t length) {
        auto self = shared_from_this();
        auto bytes = asio::buffer(buffer_, length);
        asio::async_write(socket_, bytes, [self](asio::error_code error, size_t) {
            if (!error) self->read();
        });
    }

    tcp::socket socket_;
    std::vector<char> buffer_;
};

void accept(tcp::acceptor &acceptor) {
    acceptor.async_accept([&acceptor](asio::error_code error, tcp::socket socket) {
        if (!error) {
            socket.set_option(tcp::no_delay(true), error);
            std::make_shared<session>(std::move(socket))->read();
        }
        accept(acceptor);
    });
}

int main(int count, char **arguments) {
    if (count != 3 || std::atoi(arguments[2]) <= 0) {
        std::fprintf(stderr, "usage: %s PORT THREADS\n", arguments[0]);
        return 2;
    }
    int threads = std::atoi(arguments[2]);
    asio::io_context context(threads);
    auto port = static_cast<unsigned short>(std::atoi(arguments[1]));
    tcp::endpoint endpoint(asio::ip::address_v4::loopback(), port);
    tcp::acceptor acceptor(context);
    acceptor.open(endpoint.protocol());
    acceptor.set_option(tcp::acceptor::reuse_address(true));
    acceptor.bind(endpoint);
    acceptor.listen(backlog);
    std::printf("listening on 127.0.0.1:%d\n", acceptor.local_endpoint().port());
    std::fflush(stdout);
    accept(acceptor);
    std::vector<std::thread> others;
    for (int i = 1; i < threads; i++) others.emplace_back([&context] { context.run(); });
    context.run();
}
