//! Link flags of a Node.js addon; `-z nodelete` among them, for threads of ours may outlive a worker's environment.

fn main() {
    napi_build::setup();
}
