//! Links libflash_attn.so, which `PYTHON verify/cabi/build.py --output FOLDER` writes; FLASH_ATTN_LIB names that folder.

use std::env;

fn main() {
    println!("cargo:rerun-if-env-changed=FLASH_ATTN_LIB");
    let folder = env::var("FLASH_ATTN_LIB").expect("set FLASH_ATTN_LIB to the folder that holds libflash_attn.so");
    println!("cargo:rustc-link-search=native={folder}");
    println!("cargo:rustc-link-lib=dylib=flash_attn");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
}
