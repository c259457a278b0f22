//! A phase's JSON as tables for people.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde_json::{Map, Value};

use crate::bench::check::{BARS, Bound};

/// Columns that come first, in this order; the others follow by name.
const COLUMNS: [&str; 7] = ["per_second", "lowest", "highest", "p50_ms", "p99_ms", "p999_ms", "max_ms"];

/// Lists of objects become tables of their own; the rest becomes one table of names and values.
pub(super) fn render(title: &str, figures: &Value) -> String {
    let mut text = format!("\n== {title}");
    let mut rest = Vec::new();
    let mut tables = String::new();
    for (name, value) in figures.as_object().into_iter().flatten() {
        match value.as_array() {
            Some(rows) if rows.iter().all(Value::is_object) => {
                tables = tables + "\n" + &rows_table(rows);
            }
            _ => flatten(name, value, &mut rest),
        }
    }
    if !rest.is_empty() {
        let mut table = empty();
        for (name, value) in rest {
            table.add_row([name, value]);
        }
        align(&mut table);
        text = text + "\n" + &table.to_string();
    }
    text + &tables
}

/// Each bar, the figure of this run, and whether it is met.
pub(super) fn bars(document: &Value) -> String {
    let mut table = empty();
    table.set_header(["bar", "asked", "figure", ""]);
    for bar in BARS {
        let (figure, judged) = bar.judge(document);
        let asked = match bar.bound {
            Bound::AtLeast(bar) => format!(">= {}", number(bar)),
            Bound::AtMost(bar) => format!("<= {}", number(bar)),
        };
        let figure = figure.map_or("-".to_owned(), number);
        table.add_row([bar.what.to_owned(), asked, figure, judged.as_str().to_owned()]);
    }
    align(&mut table);
    format!("\n== bars\n{table}")
}

fn empty() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table
}

fn align(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// Columns are the keys that any row has a plain value for.
fn rows_table(rows: &[Value]) -> String {
    let rows: Vec<Map<String, Value>> = rows.iter().filter_map(|row| row.as_object().cloned()).collect();
    let mut columns: Vec<&String> = Vec::new();
    for (name, value) in rows.iter().flatten() {
        let plain = !value.is_null() && !value.is_array() && !value.is_object();
        if plain && !columns.contains(&name) {
            columns.push(name);
        }
    }
    // The one text names the row.
    let is_text = |name: &str| rows.iter().any(|row| row.get(name).is_some_and(Value::is_string));
    let place = |name: &str| COLUMNS.iter().position(|known| *known == name).unwrap_or(COLUMNS.len());
    columns.sort_by_key(|name| (!is_text(name), place(name)));
    let mut table = empty();
    table.set_header(columns.iter().map(|name| name.replace('_', " ")));
    for row in &rows {
        table.add_row(columns.iter().map(|name| row.get(*name).map_or("-".to_owned(), plain)));
    }
    align(&mut table);
    table.to_string()
}

fn flatten(name: &str, value: &Value, into: &mut Vec<(String, String)>) {
    match value.as_object() {
        Some(inner) => {
            for (key, value) in inner {
                flatten(&format!("{name}.{key}"), value, into);
            }
        }
        None => into.push((name.to_owned(), plain(value))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(count) => count.as_f64().map_or_else(|| count.to_string(), number),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Whole from a hundred on, two decimals below.
fn number(figure: f64) -> String {
    if figure.fract() == 0.0 || figure.abs() >= 100.0 {
        format!("{figure:.0}")
    } else {
        format!("{figure:.2}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_become_columns_and_the_rest_names_and_values() {
        let figures = json!({
            "rows": 5, "bars": {"ratio": 0.756},
            "variants": [{"per_second": 1234.6, "variant": "one", "rounds": [1]}, {"variant": "two", "per_second": null}],
        });
        let text = render("life", &figures);
        for piece in ["== life", "bars.ratio", "0.76", "1235", "one", "two", "per second"] {
            assert!(text.contains(piece), "{piece} is not in {text}");
        }
        assert!(!text.contains("rounds"));
    }

    #[test]
    fn every_bar_is_named_even_if_it_was_not_measured() {
        let text = bars(&json!({}));
        assert_eq!(text.matches("not measured").count(), BARS.len());
    }
}
