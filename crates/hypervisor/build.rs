//! Gives the linker what the bare-metal program needs; on hosted targets there is nothing to do.

fn main() {
    let set = |name: &str| std::env::var(name).unwrap_or_default();
    println!("cargo:rerun-if-changed=build.rs");
    if set("CARGO_CFG_TARGET_OS") != "none" {
        return;
    }
    let script = format!("{}/src/arch/hypervisor.ld", set("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-changed={script}");
    for argument in
        [&format!("-T{script}"), "-pie", "--no-dynamic-linker", "-zmax-page-size=4096", "-znotext"]
    {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
