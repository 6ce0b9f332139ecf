//! A guest that lies about the bytes of its verdict, below what the component model's types let a guest say: for tests
//! that the host checks what it reads. `lie KIND` anywhere in the last user text says how; other requests pass untouched.
//!
//! The export is written by hand around the generated one: the verdict is laid out as it should be, and then spoilt.

use std::cell::RefCell;

use portcullis_plugin::{prelude::*, wit};

struct Liar;

thread_local! {
    static LIE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl wit::base::exports::portcullis::plugin::describe::Guest for Liar {
    fn describe() -> Result<Description, String> {
        let needs = [Need::LastUserText];
        let description = Description::new("liar", env!("CARGO_PKG_VERSION")).needs(needs);
        Ok(Description { phases: vec![Phase::Request], ..description })
    }
}

impl wit::request::exports::portcullis::plugin::request::Guest for Liar {
    fn on_request(request: Request) -> RequestVerdict {
        let said = request.last_user_text.split_once("lie ").map(|(_, rest)| rest.to_owned());
        let lie = said.and_then(|rest| rest.split_whitespace().next().map(str::to_owned)).unwrap_or_default();
        let edits = lie.starts_with("edit") || lie.starts_with("list") || lie.starts_with("option");
        LIE.with_borrow_mut(|kept| kept.clone_from(&lie));
        match lie.as_str() {
            "" => RequestVerdict::Continue,
            _ if edits => RequestVerdict::Change(vec![Edit::MaxTokens(Some(7)), Edit::Model("mock".to_owned())]),
            _ => reject(451, "not today"),
        }
    }
}

wit::base::export_describe!(Liar with_types_in portcullis_plugin::wit::base);
wit::request::export_request!(Liar with_types_in crate::lies);

/// Where the export's macro finds the functions behind it.
mod lies {
    pub mod exports {
        pub mod portcullis {
            pub mod plugin {
                pub mod request {
                    pub use portcullis_plugin::wit::request::exports::portcullis::plugin::request::*;

                    /// # Safety
                    /// As the generated function, whose place it takes.
                    #[allow(clippy::missing_safety_doc, reason = "said above")]
                    pub unsafe fn _export_on_request_cabi<T: Guest>(argument: *mut u8) -> *mut u8 {
                        // SAFETY: the argument is the host's, as it came.
                        let verdict = unsafe {
                            portcullis_plugin::wit::request::exports::portcullis::plugin::request::_export_on_request_cabi::<T>(
                                argument,
                            )
                        };
                        crate::spoil(verdict)
                    }
                }
            }
        }
    }
}

/// The verdict lies at `verdict`: which case, and behind it a list (of edits) or a refusal.
fn spoil(verdict: *mut u8) -> *mut u8 {
    let lie = LIE.with_borrow(String::clone);
    let word = |at: usize, value: u32| {
        // SAFETY: wrong on purpose, and inside this guest's own memory: the area that the verdict was laid out in.
        unsafe { verdict.add(at).cast::<u32>().write_unaligned(value) }
    };
    let list = || {
        // SAFETY: the list that this verdict begins with.
        unsafe { verdict.add(LIST).cast::<u32>().read_unaligned() as usize as *mut u8 }
    };
    match lie.as_str() {
        // Cases that no verdict has.
        // SAFETY: as above.
        "case" => unsafe { verdict.write(5) },
        "case-high" => unsafe { verdict.write(0xFF) },
        // An edit that is none.
        // SAFETY: the first edit of the list.
        "edit-case" => unsafe { list().write(0x7F) },
        // An option that is neither there nor not.
        // SAFETY: the first edit's option, behind its case.
        "option-case" => unsafe { list().add(EDIT).write(2) },
        "list-long" => word(LIST + 4, 0x00FF_FFFF),
        "list-longest" => word(LIST + 4, u32::MAX),
        "list-outside" => word(LIST, 0xFFFF_FFF8),
        "list-askew" => word(LIST, list() as u32 + 1),
        // Where there is no verdict.
        "outside" => return 0xFFFF_FFF0_usize as *mut u8,
        "askew" => return verdict.wrapping_add(1),
        "behind" => return (u32::MAX as usize - 2) as *mut u8,
        _ => {}
    }
    verdict
}

/// In a verdict: where what belongs to its case begins.
const LIST: usize = 8;
/// In an edit: the same; numbers of eight bytes lie on eight.
const EDIT: usize = 8;
