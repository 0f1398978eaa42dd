//! vSwarm's functions that can be called directly. Owns the table of their methods and fields, from which messages are
//! encoded and validated.

use bytes::BufMut;
use prost::encoding::{self, WireType};
use qscale_common::hash::splitmix64;

use super::{ReportedUsage, fibonacci};

/// A vSwarm function's method, with the fields of its request.
#[derive(Debug, PartialEq)]
pub struct VswarmMethod {
    /// Name after `direct:`.
    pub name: &'static str,
    /// Method path.
    pub path: &'static str,
    fields: &'static [MessageField],
    reply: ReplyCheck,
}

#[derive(Debug, PartialEq)]
struct MessageField {
    number: u32,
    name: &'static str,
    kind: FieldKind,
    default: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldKind {
    Text,
    /// Repeated text, given as values separated by commas.
    Texts,
    Int,
    Float,
    Double,
}

/// Check of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplyCheck {
    /// `y` is the Fibonacci number of `x`.
    Fibonacci,
    /// Field 1 is a non-empty text.
    Text,
    /// Any well-formed message: an empty list and `false` are valid.
    Any,
}

const fn text(number: u32, name: &'static str, default: &'static str) -> MessageField {
    MessageField { number, name, kind: FieldKind::Text, default }
}

const fn field(number: u32, name: &'static str, kind: FieldKind, default: &'static str) -> MessageField {
    MessageField { number, name, kind, default }
}

const fn service(name: &'static str, path: &'static str, fields: &'static [MessageField], reply: ReplyCheck) -> VswarmMethod {
    VswarmMethod { name, path, fields, reply }
}

const NAME: &[MessageField] = &[text(1, "name", "world")];

/// All supported services, in vSwarm's order. The online shop is not supported: its requests nest messages.
pub static SERVICES: [VswarmMethod; 20] = [
    service("fibonacci", "/fibonacci.Greeter/SayHello", &[text(1, "name", "10")], ReplyCheck::Fibonacci),
    service("auth", "/auth.Greeter/SayHello", NAME, ReplyCheck::Text),
    service("aes", "/aes.Aes/ShowEncryption", &[text(1, "plaintext_message", "exampleplaintext")], ReplyCheck::Text),
    service("sleeping", "/aes.Aes/ShowEncryption", &[text(1, "plaintext_message", "50")], ReplyCheck::Text),
    service("spinning", "/aes.Aes/ShowEncryption", &[text(1, "plaintext_message", "50")], ReplyCheck::Text),
    service("image-rotate", "/image_rotate.ImageRotate/RotateImage", &[text(1, "name", "img1.jpeg")], ReplyCheck::Text),
    service("video-processing", "/video_processing.VideoProcessing/ConvertToGrayscale", &[text(1, "name", "vid1.mp4")], ReplyCheck::Text),
    service(
        "video-analytics",
        "/video_analytics_standalone.VideoAnalytics/ObjectDetection",
        &[text(1, "name", "vid1.mp4")],
        ReplyCheck::Text,
    ),
    service("compression", "/compression.FileCompress/CompressFile", &[text(1, "name", "metamorphosis.txt")], ReplyCheck::Text),
    service("graph-bfs", "/graph_bfs.GraphBFSBenchmark/GetBfs", NAME, ReplyCheck::Text),
    service("parking", "/parking.Parking/DoParking", NAME, ReplyCheck::Text),
    service(
        "rnn-serving",
        "/rnn_serving.RNNServing/GenerateString",
        &[text(1, "language", "French"), field(2, "numSamples", FieldKind::Int, "15")],
        ReplyCheck::Text,
    ),
    service("gptj", "/gptj.GptJBenchmark/GetBenchmark", &[text(1, "regenerate", "false")], ReplyCheck::Text),
    service(
        "geo",
        "/geo.Geo/Nearby",
        &[field(1, "lat", FieldKind::Float, "37.7749"), field(2, "lon", FieldKind::Float, "-122.4194")],
        ReplyCheck::Any,
    ),
    service(
        "profile",
        "/profile.Profile/GetProfiles",
        &[field(1, "hotelIds", FieldKind::Texts, "1,2,3"), text(2, "locale", "en")],
        ReplyCheck::Any,
    ),
    service(
        "rate",
        "/rate.Rate/GetRates",
        &[field(1, "hotelIds", FieldKind::Texts, "1,2,3"), text(2, "inDate", "2015-04-09"), text(3, "outDate", "2015-04-10")],
        ReplyCheck::Any,
    ),
    service(
        "recommendation",
        "/recommendation.Recommendation/GetRecommendations",
        &[text(1, "require", "price"), field(2, "lat", FieldKind::Double, "37.7834"), field(3, "lon", FieldKind::Double, "-122.4081")],
        ReplyCheck::Any,
    ),
    service("reservation", "/reservation.Reservation/CheckAvailability", RESERVATION, ReplyCheck::Any),
    service("user", "/user.User/CheckUser", &[text(1, "username", "Cornell_1"), text(2, "password", "1111111111")], ReplyCheck::Any),
    service(
        "search",
        "/search.Search/Nearby",
        &[
            field(1, "lat", FieldKind::Float, "37.7749"),
            field(2, "lon", FieldKind::Float, "-122.4194"),
            text(3, "inDate", "2015-04-09"),
            text(4, "outDate", "2015-04-10"),
        ],
        ReplyCheck::Any,
    ),
];

const RESERVATION: &[MessageField] = &[
    text(1, "customerName", "Cornell_1"),
    field(2, "hotelId", FieldKind::Texts, "2"),
    text(3, "inDate", "2015-04-09"),
    text(4, "outDate", "2015-04-10"),
    field(5, "roomNumber", FieldKind::Int, "1"),
];

impl Eq for VswarmMethod {}

impl VswarmMethod {
    /// Service with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static VswarmMethod> {
        SERVICES.iter().find(|service| service.name == name)
    }

    /// Validates a reply to request `sequence` of `inputs`.
    pub(super) fn validate(&self, message: &[u8], inputs: &Inputs, sequence: u64) -> Result<ReportedUsage, String> {
        let first = first_text(message)?;
        match (self.reply, first) {
            (ReplyCheck::Any, _) => {}
            (_, None | Some("")) => return Err("the reply's text is empty".to_owned()),
            (ReplyCheck::Text, Some(_)) => {}
            (ReplyCheck::Fibonacci, Some(text)) => fibonacci::validate(text, inputs.number(sequence))?,
        }
        Ok(ReportedUsage::default())
    }
}

/// Parses the whole message, to detect a malformed one, and returns field 1 if it is text.
fn first_text(message: &[u8]) -> Result<Option<&str>, String> {
    let malformed = |error: prost::DecodeError| format!("cannot decode the reply: {error}");
    let mut rest = message;
    let mut first = None;
    while !rest.is_empty() {
        let (number, wire) = encoding::decode_key(&mut rest).map_err(malformed)?;
        if number == 1 && wire == WireType::LengthDelimited {
            let length = encoding::decode_varint(&mut rest).map_err(malformed)?;
            let length = usize::try_from(length).ok().filter(|length| *length <= rest.len()).ok_or("the reply is truncated")?;
            let (text, after) = rest.split_at(length);
            first = std::str::from_utf8(text).ok();
            rest = after;
        } else {
            encoding::skip_field(wire, number, &mut rest, encoding::DecodeContext::default()).map_err(malformed)?;
        }
    }
    Ok(first)
}

/// Values of a service's fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Inputs(Vec<Input>);

#[derive(Debug, Clone, PartialEq)]
struct Input {
    number: u32,
    value: FieldValue,
}

#[derive(Debug, Clone, PartialEq)]
enum FieldValue {
    Text(String),
    /// A whole number as text, drawn for each request.
    Range(u64, u64),
    Texts(Vec<String>),
    Int(i32),
    Float(f32),
    Double(f64),
}

impl Inputs {
    /// Fields of `service`, with values from `given` (`field=value`) or their defaults.
    ///
    /// # Errors
    /// When an input has no `=`, names no field of the service, or has a value of another kind.
    pub fn new(service: &VswarmMethod, given: &[String]) -> Result<Self, String> {
        let names = || service.fields.iter().map(|field| format!("{}={}", field.name, field.default)).collect::<Vec<_>>().join(", ");
        let mut values: Vec<&str> = service.fields.iter().map(|field| field.default).collect();
        for text in given {
            let (name, value) = text.split_once('=').ok_or_else(|| format!("input `{text}`: must be field=value, one of {}", names()))?;
            let index = service.fields.iter().position(|field| field.name == name);
            let index =
                index.ok_or_else(|| format!("input `{text}`: {} has no field `{name}`; its fields are {}", service.name, names()))?;
            values[index] = value;
        }
        let inputs = service.fields.iter().zip(values).map(|(field, text)| {
            let value = FieldValue::parse(field.kind, text).map_err(|what| format!("input `{}={text}`: {what}", field.name))?;
            Ok(Input { number: field.number, value })
        });
        inputs.collect::<Result<_, String>>().map(Self)
    }

    /// Whether requests differ from each other.
    pub(super) fn vary(&self) -> bool {
        self.0.iter().any(|input| matches!(input.value, FieldValue::Range(..)))
    }

    /// Number in the first field of request `sequence`, if it is one.
    fn number(&self, sequence: u64) -> Option<u64> {
        match &self.0.first()?.value {
            FieldValue::Range(low, high) => Some(drawn(*low, *high, sequence)),
            FieldValue::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Encoded message of request `sequence`.
    pub(super) fn encode(&self, sequence: u64) -> Vec<u8> {
        let mut message = Vec::new();
        for Input { number, value } in &self.0 {
            value.encode(*number, sequence, &mut message);
        }
        message
    }
}

impl FieldValue {
    fn parse(kind: FieldKind, text: &str) -> Result<Self, String> {
        match kind {
            FieldKind::Text => Ok(match range(text) {
                Some((low, high)) if low <= high => FieldValue::Range(low, high),
                Some((low, high)) => return Err(format!("the range {low}..{high} is empty")),
                None => FieldValue::Text(text.to_owned()),
            }),
            FieldKind::Texts => Ok(FieldValue::Texts(text.split(',').map(str::to_owned).collect())),
            FieldKind::Int => text.parse().map(FieldValue::Int).map_err(|_| "must be a whole number".to_owned()),
            FieldKind::Float => text.parse().map(FieldValue::Float).map_err(|_| "must be a number".to_owned()),
            FieldKind::Double => text.parse().map(FieldValue::Double).map_err(|_| "must be a number".to_owned()),
        }
    }

    fn encode(&self, number: u32, sequence: u64, message: &mut impl BufMut) {
        match self {
            FieldValue::Text(text) => encoding::string::encode(number, text, message),
            FieldValue::Range(low, high) => encoding::string::encode(number, &drawn(*low, *high, sequence).to_string(), message),
            FieldValue::Texts(texts) => encoding::string::encode_repeated(number, texts, message),
            FieldValue::Int(value) => encoding::int32::encode(number, value, message),
            FieldValue::Float(value) => encoding::float::encode(number, value, message),
            FieldValue::Double(value) => encoding::double::encode(number, value, message),
        }
    }
}

fn range(text: &str) -> Option<(u64, u64)> {
    let (low, high) = text.split_once("..")?;
    Some((low.parse().ok()?, high.parse().ok()?))
}

/// Number from `low` to `high`, inclusive: a hash of the sequence number, so that the reply can be checked without storing it.
fn drawn(low: u64, high: u64, sequence: u64) -> u64 {
    let span = (high - low).saturating_add(1);
    low + ((u128::from(splitmix64(sequence)) * u128::from(span)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use qscale_messages::{HelloReply, HelloRequest};

    fn inputs(service: &str, given: &[&str]) -> Result<Inputs, String> {
        let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
        Inputs::new(VswarmMethod::named(service).expect("known"), &given)
    }

    #[test]
    fn every_service_forms_a_request_from_its_defaults() {
        for service in &SERVICES {
            let inputs = Inputs::new(service, &[]).unwrap_or_else(|error| panic!("{}: {error}", service.name));
            assert!(!inputs.encode(0).is_empty(), "{}", service.name);
        }
    }

    #[test]
    fn fields_have_the_numbers_of_the_proto() {
        let message = inputs("fibonacci", &["name=33"]).expect("fine").encode(0);
        assert_eq!(HelloRequest::decode(&message[..]).expect("decodes").name, "33");
        let message = inputs("rnn-serving", &[]).expect("fine").encode(0);
        assert_eq!(message, b"\x0a\x06French\x10\x0f");
    }

    #[test]
    fn numbers_are_drawn_from_a_range_and_replies_are_checked_against_them() {
        let service = VswarmMethod::named("fibonacci").expect("known");
        let inputs = inputs("fibonacci", &["name=5..7"]).expect("fine");
        let mut seen = [false; 3];
        for sequence in 0..100 {
            let name = HelloRequest::decode(&inputs.encode(sequence)[..]).expect("decodes").name;
            let number: usize = name.parse().expect("a number");
            seen[number - 5] = true;
            let y = [5, 8, 13][number - 5];
            let reply = HelloReply { message: format!("fn: Fib: y = fib(x) | x: {number} y: {y} | runtime: test") }.encode_to_vec();
            assert!(service.validate(&reply, &inputs, sequence).is_ok());
        }
        assert_eq!(seen, [true; 3]);
    }

    #[test]
    fn an_invalid_input_is_refused_with_the_valid_fields() {
        assert!(inputs("fibonacci", &["n=3"]).expect_err("unknown").contains("its fields are name=10"));
        assert!(inputs("fibonacci", &["3"]).expect_err("no sign").contains("field=value"));
        assert!(inputs("rnn-serving", &["numSamples=many"]).expect_err("not a number").contains("numSamples=many"));
        assert!(inputs("fibonacci", &["name=9..3"]).expect_err("empty").contains("empty"));
    }

    #[test]
    fn malformed_and_empty_replies_are_invalid() {
        let validate =
            |service: &str, reply: &[u8]| VswarmMethod::named(service).expect("known").validate(reply, &Inputs::default(), 0).is_ok();
        assert!(validate("aes", b"\x0a\x02ok"));
        assert!(!validate("aes", b""));
        assert!(!validate("aes", b"\x0a\x09cut"));
        assert!(!validate("aes", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"));
        assert!(!validate("auth", b"\xff"));
        assert!(validate("user", b""));
        assert!(validate("geo", b"\x0a\x011\x0a\x012"));
    }
}
