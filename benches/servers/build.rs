//! Compiles the gateway's contract for the bare wrapper.

#[cfg(feature = "bare")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto");
    let contract = protox::compile(["ott/v1/ott_service.proto"], ["../../proto"])?;
    tonic_prost_build::configure().build_client(false).compile_fds(contract)?;
    Ok(())
}

#[cfg(not(feature = "bare"))]
fn main() {}
