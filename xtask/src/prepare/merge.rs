//! Merges the files of the macros, one per query, into one that people can review.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::value::RawValue;

/// The queries' files by hash.
type Files = BTreeMap<String, String>;

/// Merges all files of a directory.
pub(super) fn merge(directory: &Path) -> anyhow::Result<String> {
    let mut files = Files::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(hash) = name.strip_prefix("query-").and_then(|rest| rest.strip_suffix(".json")) {
            files.insert(hash.to_owned(), fs::read_to_string(&path)?);
        }
    }
    ensure!(!files.is_empty(), "the macros described no query");
    merged(&files)
}

/// One map: "db", then hash -> describe and query, sorted by hash.
///
/// Keeps the text of the values, because a parsed value would lose the order of its fields.
fn merged(files: &Files) -> anyhow::Result<String> {
    let mut entries = vec!["  \"db\": \"PostgreSQL\"".to_owned()];
    for (hash, file) in files {
        let (describe, query) =
            parts(file).with_context(|| format!("query-{hash}.json is not as expected"))?;
        entries
            .push(format!("  \"{hash}\": {{\n    \"describe\": {describe},\n    \"query\": {query}\n  }}"));
    }
    Ok(format!("{{\n{}\n}}\n", entries.join(",\n")))
}

/// The values of `describe`, one level deeper, and of `query`.
fn parts(file: &str) -> anyhow::Result<(String, &str)> {
    let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(file)?;
    let field = |name| fields.get(name).map(|value| value.get()).with_context(|| format!("no `{name}`"));
    ensure!(field("db_name")? == "\"PostgreSQL\"", "its database is not PostgreSQL");
    let describe = field("describe")?;
    // Anything else would make a file that differs from the committed one in every line.
    ensure!(describe.starts_with("{\n    \""), "`describe` is not indented by two");
    // Only line ends of the format: within strings, they are escaped.
    Ok((describe.replace('\n', "\n  "), field("query")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
  "db_name": "PostgreSQL",
  "query": "select name as \"name!\"\n  from worker\n where name = $1",
  "describe": {
    "columns": [
      {
        "ordinal": 0,
        "name": "name!"
      }
    ],
    "parameters": {
      "Left": [
        "Text"
      ]
    },
    "nullable": []
  },
  "hash": "0b"
}
"#;

    const MERGED: &str = r#"{
  "db": "PostgreSQL",
  "0b": {
    "describe": {
      "columns": [
        {
          "ordinal": 0,
          "name": "name!"
        }
      ],
      "parameters": {
        "Left": [
          "Text"
        ]
      },
      "nullable": []
    },
    "query": "select name as \"name!\"\n  from worker\n where name = $1"
  },
  "a0": {
    "describe": {
      "columns": []
    },
    "query": "vacuum"
  }
}
"#;

    const OTHER: &str = r#"{
  "db_name": "PostgreSQL",
  "query": "vacuum",
  "describe": {
    "columns": []
  },
  "hash": "a0"
}
"#;

    #[test]
    fn files_become_one_map_sorted_by_hash_with_every_field_in_its_order() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("query-a0.json"), OTHER).unwrap();
        fs::write(directory.path().join("query-0b.json"), FILE).unwrap();
        fs::write(directory.path().join("unrelated.json"), "{}").unwrap();
        assert_eq!(merge(directory.path()).unwrap(), MERGED);
    }

    #[test]
    fn a_file_of_another_form_is_an_error_that_names_it() {
        let compact = r#"{"db_name":"PostgreSQL","query":"vacuum","describe":{"columns":[]},"hash":"a0"}"#;
        let other_database = OTHER.replace("PostgreSQL", "SQLite");
        let incomplete = OTHER.replace("query", "text");
        for file in [compact, &other_database, &incomplete, "{"] {
            let error = merged(&Files::from([("a0".to_owned(), file.to_owned())])).unwrap_err();
            assert_eq!(error.to_string(), "query-a0.json is not as expected");
        }
    }

    #[test]
    fn no_files_are_an_error_and_not_an_empty_map() {
        let directory = tempfile::tempdir().unwrap();
        assert!(merge(directory.path()).is_err());
    }
}
