//! Reads a body: one object or an array of objects. Each fault is reported with its place.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_path_to_error::{Path, Segment};
use utoipa::ToSchema;

use super::problem::{FieldError, Problem};

/// What a body held.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub(super) enum OneOrMany<T> {
    /// One object.
    One(T),
    /// An array.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The elements, and whether they came as an array.
    pub(super) fn into_elements(self) -> (Vec<T>, bool) {
        match self {
            Self::One(one) => (vec![one], false),
            Self::Many(many) => (many, true),
        }
    }
}

/// Unwraps what axum read, or says why it could not.
pub(super) fn bytes(body: Result<Bytes, BytesRejection>, limit: usize) -> Result<Bytes, Problem> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(format!(
            "the body is longer than {limit} bytes; send fewer elements at a time"
        )),
        _ => Problem::malformed("the body could not be read to its end"),
    })
}

/// Reads one object or an array of at most `batch_max`, and checks each element.
///
/// All elements are read before any is used, so that a fault leaves nothing half-written.
/// An element's faults are placed below its index: `/3/delay_ms`.
pub(super) fn read<Wire, T>(
    body: &[u8],
    batch_max: usize,
    check: impl Fn(Wire) -> Result<T, Vec<FieldError>>,
) -> Result<OneOrMany<T>, Problem>
where
    Wire: DeserializeOwned,
{
    let text =
        std::str::from_utf8(body).map_err(|error| Problem::malformed(format!("not UTF-8: {error}")))?;
    let is_array = text.trim_start().starts_with('[');
    let elements: Vec<&RawValue> = if is_array {
        serde_json::from_str(text).map_err(|error| Problem::malformed(error.to_string()))?
    } else {
        vec![serde_json::from_str(text).map_err(|error| Problem::malformed(error.to_string()))?]
    };
    if elements.len() > batch_max {
        return Err(Problem::too_large(format!(
            "the array holds {} elements; send at most {batch_max} at a time",
            elements.len()
        )));
    }
    let mut errors = Vec::new();
    let mut checked = Vec::with_capacity(elements.len());
    for (index, element) in elements.iter().enumerate() {
        match from_json(element.get()).and_then(&check) {
            Ok(one) => checked.push(one),
            Err(faults) => errors.extend(faults.into_iter().map(|fault| FieldError {
                field: if is_array { format!("/{index}{}", fault.field) } else { fault.field },
                ..fault
            })),
        }
    }
    match (errors.is_empty(), is_array, checked.pop()) {
        (false, _, _) => Err(Problem::invalid(errors)),
        (true, false, Some(one)) => Ok(OneOrMany::One(one)),
        (true, _, last) => {
            checked.extend(last);
            Ok(OneOrMany::Many(checked))
        }
    }
}

/// Reads exactly one object.
pub(super) fn read_one<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    match read(body, 1, Ok)? {
        OneOrMany::One(one) => Ok(one),
        OneOrMany::Many(_) => Err(Problem::invalid(vec![FieldError::new("", "must be an object")])),
    }
}

fn from_json<T: DeserializeOwned>(json: &str) -> Result<T, Vec<FieldError>> {
    // A derived reader would also accept an array as a struct, by position. No caller means that.
    if !json.starts_with('{') {
        return Err(vec![FieldError::new("", "must be an object")]);
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let place = pointer(error.path());
        let text = error.into_inner().to_string();
        let message = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
        vec![FieldError::at(&place, message)]
    })
}

/// A path as a JSON pointer (RFC 6901).
fn pointer(path: &Path) -> String {
    path.iter().fold(String::new(), |pointer, segment| match segment {
        Segment::Seq { index } => format!("{pointer}/{index}"),
        Segment::Map { key } => format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { .. } | Segment::Unknown => pointer,
    })
}

/// A dotted path such as `run.machine` as a JSON pointer.
pub(super) fn pointer_of_dotted(path: &str) -> String {
    let steps = path.split(['.', '[', ']']).filter(|step| !step.is_empty());
    steps.fold(String::new(), |pointer, step| pointer + "/" + step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotted_path_becomes_a_pointer() {
        assert_eq!(pointer_of_dotted(""), "");
        assert_eq!(pointer_of_dotted("snapshot.friendlyId"), "/snapshot/friendlyId");
        assert_eq!(pointer_of_dotted("placementTags[0].key"), "/placementTags/0/key");
    }
}
