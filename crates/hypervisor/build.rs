//! Gives the linker what the bare-metal program needs; on hosted targets there is nothing to do.

fn main() {
    let set = |name: &str| std::env::var(name).unwrap_or_default();
    println!("cargo:rerun-if-changed=build.rs");
    if set("CARGO_CFG_TARGET_OS") != "none" {
        return;
    }
    let architecture = match set("CARGO_CFG_TARGET_ARCH").as_str() {
        "arm" => "armv7".to_owned(),
        other => other.to_owned(),
    };
    let script = format!("{}/src/arch/{architecture}/hypervisor.ld", set("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-changed={script}");
    for argument in
        [&format!("-T{script}"), "-pie", "--no-dynamic-linker", "-zmax-page-size=4096", "-znotext"]
    {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
