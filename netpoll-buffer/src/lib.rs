//! Linked, counted, zero-copy buffers: chains of pooled blocks.
