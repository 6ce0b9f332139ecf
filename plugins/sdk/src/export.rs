//! `plugin!`: makes a type with its phases the exports of a component.

/// `plugin!(Name: request, event);` exports `Name` (a [`Plugin`](crate::Plugin) that is `Default`) with these phases, of
/// `request`, `route`, `attempt`, `event`, `response`, `error` and `log`. Once a crate.
#[macro_export]
macro_rules! plugin {
    ($plugin:ident: $($phase:ident),+ $(,)?) => {
        #[doc(hidden)]
        struct PortcullisGuest;

        ::std::thread_local! {
            static PORTCULLIS_INSTANCE: ::std::cell::RefCell<$plugin> =
                ::std::cell::RefCell::new(<$plugin as ::std::default::Default>::default());
        }

        impl $crate::wit::base::exports::portcullis::plugin::describe::Guest for PortcullisGuest {
            fn describe() -> ::std::result::Result<$crate::Description, ::std::string::String> {
                let mut description = <$plugin as $crate::Plugin>::describe()?;
                if description.phases.is_empty() {
                    description.phases = ::std::vec![$($crate::__phase_name!($phase)),+];
                }
                ::std::result::Result::Ok(description)
            }
        }

        $crate::wit::base::export_describe!(PortcullisGuest with_types_in $crate::wit::base);
        $($crate::__phase_export!($phase);)+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __phase_name {
    (request) => {
        $crate::Phase::Request
    };
    (route) => {
        $crate::Phase::Route
    };
    (attempt) => {
        $crate::Phase::Attempt
    };
    (event) => {
        $crate::Phase::Event
    };
    (response) => {
        $crate::Phase::Response
    };
    (error) => {
        $crate::Phase::Error
    };
    (log) => {
        $crate::Phase::Log
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __phase_export {
    (request) => {
        impl $crate::wit::request::exports::portcullis::plugin::request::Guest for PortcullisGuest {
            fn on_request(request: $crate::Request) -> $crate::RequestVerdict {
                PORTCULLIS_INSTANCE.with_borrow_mut(|plugin| $crate::OnRequest::on_request(plugin, request))
            }
        }
        $crate::wit::request::export_request!(PortcullisGuest with_types_in $crate::wit::request);
    };
    (route) => {
        impl $crate::wit::route::exports::portcullis::plugin::route::Guest for PortcullisGuest {
            fn on_route(request: $crate::Request, targets: Vec<$crate::Target>) -> $crate::RouteVerdict {
                PORTCULLIS_INSTANCE.with_borrow_mut(|plugin| $crate::OnRoute::on_route(plugin, request, targets))
            }
        }
        $crate::wit::route::export_route!(PortcullisGuest with_types_in $crate::wit::route);
    };
    (attempt) => {
        impl $crate::wit::attempt::exports::portcullis::plugin::attempt::Guest for PortcullisGuest {
            fn on_attempt(target: $crate::Target, request: $crate::Request) -> $crate::AttemptVerdict {
                PORTCULLIS_INSTANCE.with_borrow_mut(|plugin| $crate::OnAttempt::on_attempt(plugin, target, request))
            }
        }
        $crate::wit::attempt::export_attempt!(PortcullisGuest with_types_in $crate::wit::attempt);
    };
    (event) => {
        impl $crate::wit::event::exports::portcullis::plugin::event::Guest for PortcullisGuest {
            fn on_event(event: $crate::Event) -> $crate::EventVerdict {
                PORTCULLIS_INSTANCE.with_borrow_mut(|plugin| $crate::OnEvent::on_event(plugin, event))
            }
        }
        $crate::wit::event::export_event!(PortcullisGuest with_types_in $crate::wit::event);
    };
    (response) => {
        impl $crate::wit::response::exports::portcullis::plugin::response::Guest for PortcullisGuest {
            fn on_response(answer: $crate::Answer) -> $crate::ResponseVerdict {
                PORTCULLIS_INSTANCE.with_borrow_mut(|plugin| $crate::OnResponse::on_response(plugin, answer))
            }
        }
        $crate::wit::response::export_response!(PortcullisGuest with_types_in $crate::wit::response);
    };
    (error) => {
        impl $crate::wit::error::exports::portcullis::plugin::error::Guest for PortcullisGuest {
            fn on_error(failure: $crate::Failure) -> $crate::ErrorVerdict {
                PORTCULLIS_INSTANCE.with_borrow_mut(|plugin| $crate::OnError::on_error(plugin, failure))
            }
        }
        $crate::wit::error::export_error!(PortcullisGuest with_types_in $crate::wit::error);
    };
    (log) => {
        impl $crate::wit::log::exports::portcullis::plugin::log::Guest for PortcullisGuest {
            fn on_log(summary: $crate::Summary) -> ::std::vec::Vec<(::std::string::String, ::std::string::String)> {
                PORTCULLIS_INSTANCE.with_borrow_mut(|plugin| $crate::OnLog::on_log(plugin, summary))
            }
        }
        $crate::wit::log::export_log!(PortcullisGuest with_types_in $crate::wit::log);
    };
}
