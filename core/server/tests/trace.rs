//! `traceparent` in and out.

use http::HeaderValue;

use super::TraceContext;

fn read(text: &str) -> TraceContext {
    TraceContext::from_header(Some(&HeaderValue::from_str(text).unwrap()))
}

#[test]
fn the_callers_trace_goes_on_with_spans_of_ours() {
    let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let ours = read(caller);
    assert_eq!(ours.trace, 0x0af7651916cd43dd8448eb211c80319c);
    assert_eq!(ours.parent, Some(0xb7ad6b7169203331));
    assert!(ours.sampled());
    let child = ours.child();
    assert_eq!((child.trace, child.parent, child.flags), (ours.trace, Some(ours.span), 1));
    assert_ne!(child.span, ours.span);
    let header = child.header();
    let text = header.to_str().unwrap();
    assert_eq!(text.len(), 55);
    assert_eq!(read(text).parent, Some(child.span));
    assert_eq!(read(text).trace, ours.trace);
}

#[test]
fn what_does_not_hold_begins_a_new_trace() {
    for bad in [
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        let context = read(bad);
        assert_eq!(context.parent, None, "{bad}");
        assert_ne!((context.trace, context.span), (0, 0), "{bad}");
    }
    assert_ne!(TraceContext::from_header(None), TraceContext::from_header(None));
    // A later version may say more.
    assert!(read("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more").parent.is_some());
}

#[test]
fn the_header_is_the_context_as_text() {
    let caller = read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    for context in [caller, caller.child(), TraceContext { trace: 1, parent: None, span: 2, flags: 0 }] {
        assert_eq!(context.header(), context.to_string());
    }
}
