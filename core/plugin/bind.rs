//! The contract of `plugins/wit/portcullis.wit` as Rust types and calls, generated when the gateway is built. Nothing
//! outside this folder sees them.

wasmtime::component::bindgen!({
    path: "plugins/wit",
    world: "plugin",
    imports: { "portcullis:plugin/http.send": async },
    exports: { default: async },
    additional_derives: [PartialEq],
});

pub use self::portcullis::plugin::types;

/// The package whose interfaces guests import and export, and the version this gateway speaks.
pub const PACKAGE: &str = "portcullis:plugin";
pub const VERSION: &str = "1.0.0";
