//! The program: hands its arguments to `cli` and ends with the exit code that it gets. Nothing else exits the process.

use std::process::ExitCode;

/// Scripts make many small allocations: half again as fast as with glibc's allocator, and less spread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portcullis::cli::main(std::env::args_os()).into()
}
