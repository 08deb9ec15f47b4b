fn main() {
    vmd::process::enter_if_asked();
}
