//! Shared helpers of netpoll's benchmarks.
