//! The calls of `plugins/wit/portcullis.wit`, generated while compiling: one world a phase, so that a plugin exports only
//! the phases it has. Plugins use the names that the crate's root gives; these may change.

/// What every plugin has: the imports and `describe`.
pub mod base {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "
            package portcullis:sdk;
            world base {
                include portcullis:plugin/imports@1.0.0;
                export portcullis:plugin/describe@1.0.0;
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_describe",
        generate_unused_types: true,
        generate_all,
        additional_derives: [PartialEq],
    });
}

pub mod request {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package portcullis:sdk; world request-phase { export portcullis:plugin/request@1.0.0; }",
        pub_export_macro: true,
        export_macro_name: "export_request",
        with: { "portcullis:plugin/types@1.0.0": crate::wit::base::portcullis::plugin::types },
    });
}

pub mod route {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package portcullis:sdk; world route-phase { export portcullis:plugin/route@1.0.0; }",
        pub_export_macro: true,
        export_macro_name: "export_route",
        with: { "portcullis:plugin/types@1.0.0": crate::wit::base::portcullis::plugin::types },
    });
}

pub mod attempt {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package portcullis:sdk; world attempt-phase { export portcullis:plugin/attempt@1.0.0; }",
        pub_export_macro: true,
        export_macro_name: "export_attempt",
        with: { "portcullis:plugin/types@1.0.0": crate::wit::base::portcullis::plugin::types },
    });
}

pub mod event {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package portcullis:sdk; world event-phase { export portcullis:plugin/event@1.0.0; }",
        pub_export_macro: true,
        export_macro_name: "export_event",
        with: { "portcullis:plugin/types@1.0.0": crate::wit::base::portcullis::plugin::types },
    });
}

pub mod response {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package portcullis:sdk; world response-phase { export portcullis:plugin/response@1.0.0; }",
        pub_export_macro: true,
        export_macro_name: "export_response",
        with: { "portcullis:plugin/types@1.0.0": crate::wit::base::portcullis::plugin::types },
    });
}

pub mod error {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package portcullis:sdk; world error-phase { export portcullis:plugin/error@1.0.0; }",
        pub_export_macro: true,
        export_macro_name: "export_error",
        with: { "portcullis:plugin/types@1.0.0": crate::wit::base::portcullis::plugin::types },
    });
}

pub mod log {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package portcullis:sdk; world log-phase { export portcullis:plugin/log@1.0.0; }",
        pub_export_macro: true,
        export_macro_name: "export_log",
        with: { "portcullis:plugin/types@1.0.0": crate::wit::base::portcullis::plugin::types },
    });
}
