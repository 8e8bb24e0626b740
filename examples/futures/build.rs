//! Generates the code of `proto/hello.proto`; needs `protoc`.

fn main() -> std::io::Result<()> {
    let code = tonic_prost_build::configure().build_transport(false);
    code.compile_protos(&["proto/hello.proto"], &["proto"])
}
