//! placeholder
use super::*;
use bytes::Bytes;
pub struct Gemini;
impl Codec for Gemini {
    fn format(&self) -> Format {
        Format::Gemini
    }
    fn decode_request(&self, _body: &[u8], _inbound: Inbound<'_>) -> Result<Request> {
        todo!()
    }
    fn encode_request(&self, _request: &Request, _dialect: &Dialect) -> Result<Encoded> {
        todo!()
    }
    fn decode_response(&self, _body: &[u8]) -> Result<Response> {
        todo!()
    }
    fn encode_response(&self, _response: &Response, _view: &ClientView) -> Result<Vec<u8>> {
        todo!()
    }
    fn stream_decoder(&self, _dialect: &Dialect) -> Box<dyn StreamDecoder> {
        todo!()
    }
    fn stream_encoder(&self, _view: &ClientView) -> Box<dyn StreamEncoder> {
        todo!()
    }
    fn decode_error(&self, _status: u16, _header: &dyn Fn(&str) -> Option<String>, _body: &Bytes) -> Error {
        todo!()
    }
    fn encode_error(&self, _error: &Error, _request_id: &str) -> Vec<u8> {
        todo!()
    }
    fn wire_fields(&self, _field: Field) -> &'static [&'static str] {
        todo!()
    }
    fn encode_count_response(&self, _tokens: u64) -> Vec<u8> {
        todo!()
    }
    fn encode_models(&self, _models: &[ModelCard]) -> Vec<u8> {
        todo!()
    }
    fn encode_model(&self, _model: &ModelCard) -> Vec<u8> {
        todo!()
    }
}
