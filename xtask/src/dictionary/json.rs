//! JSON with its fields in the platform's order, which `serde_json` would sort.

use std::fmt::{self, Display};

use serde_json::Value;

/// An object; displayed, it is JSON without spaces.
#[derive(Debug, Default)]
pub(super) struct Object {
    fields: Vec<String>,
}

impl Object {
    /// Adds a field whose value is JSON already.
    pub(super) fn raw(mut self, key: &str, json: impl Display) -> Self {
        self.fields.push(format!("{}:{json}", Value::from(key)));
        self
    }

    /// Adds a string.
    pub(super) fn text(self, key: &str, text: &str) -> Self {
        self.raw(key, Value::from(text))
    }

    /// Adds a field whose value is JSON already, if there is one.
    pub(super) fn maybe_raw(self, key: &str, json: Option<impl Display>) -> Self {
        match json {
            Some(json) => self.raw(key, json),
            None => self,
        }
    }

    /// Adds a string, if there is one.
    pub(super) fn maybe_text(self, key: &str, text: Option<impl AsRef<str>>) -> Self {
        match text {
            Some(text) => self.text(key, text.as_ref()),
            None => self,
        }
    }
}

impl Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.fields.join(","))
    }
}

/// An array of what is JSON already.
pub(super) fn array(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("[{}]", items.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_and_strings_are_escaped() {
        let inner = Object::default().raw("ok", true);
        let object = Object::default()
            .text("z", &inner.to_string())
            .raw("a", array([1, 2]))
            .maybe_text("absent", None::<&str>)
            .maybe_raw("b", Some(Object::default()));
        assert_eq!(object.to_string(), r#"{"z":"{\"ok\":true}","a":[1,2],"b":{}}"#);
        assert_eq!(array([0; 0]), "[]");
    }
}
