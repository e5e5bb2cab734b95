//! Kubernetes quantities (`96Mi`, `0.5`, `100m`) as users write them: text or number.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// A quantity, kept as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity: expected a number with an optional suffix such as 500m, 2, 96Mi or 1G")]
pub struct ParseQuantityError(pub String);

impl Quantity {
    /// The value in thousandths, rounded up, as Kubernetes rounds.
    pub fn millis(&self) -> Result<i128, ParseQuantityError> {
        let error = || ParseQuantityError(self.0.clone());
        let text = self.0.trim();
        let split = text.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        // (numerator, denominator) of one unit, in thousandths
        let (unit, per) = match suffix {
            "n" => (1, 1_000_000),
            "u" => (1, 1_000),
            "m" => (1, 1),
            "" => (1_000, 1),
            "k" => (1_000_000, 1),
            "M" => (1_000_000_000, 1),
            "G" => (1_000_000_000_000, 1),
            "T" => (1_000_000_000_000_000, 1),
            "P" => (1_000_000_000_000_000_000, 1),
            "Ki" => (1_000 << 10, 1),
            "Mi" => (1_000 << 20, 1),
            "Gi" => (1_000 << 30, 1),
            "Ti" => (1_000i128 << 40, 1),
            "Pi" => (1_000i128 << 50, 1),
            _ => return Err(error()),
        };
        let (sign, number) = match number.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || digits.len() > 18 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let scaled: i128 = digits.parse().map_err(|_| error())?;
        let denominator = 10i128.pow(fraction.len() as u32) * per;
        let product: i128 = scaled * unit;
        Ok(sign * ((product + denominator - 1) / denominator))
    }

    /// The value in whole units, rounded up: bytes of memory, for example.
    pub fn units(&self) -> Result<i64, ParseQuantityError> {
        let millis = self.millis()?;
        i64::try_from((millis + 999).div_euclid(1_000)).map_err(|_| ParseQuantityError(self.0.clone()))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self(text)),
            serde_json::Value::Number(number) => Ok(Self(number.to_string())),
            other => Err(serde::de::Error::custom(format!("expected a quantity, found {other}"))),
        }
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }
    fn inline_schema() -> bool {
        true
    }
    /// The form that Kubernetes' own CRD generator gives a quantity.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
            "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let units = |t: &str| Quantity::from(t).units().unwrap();
        assert_eq!(units("96Mi"), 96 << 20);
        assert_eq!(units("1.5Gi"), 3 << 29);
        assert_eq!(units("1G"), 1_000_000_000);
        assert_eq!(units("100m"), 1);
        assert_eq!(Quantity::from("100m").millis().unwrap(), 100);
        assert_eq!(Quantity::from("0.5").millis().unwrap(), 500);
        assert_eq!(Quantity::from("2").millis().unwrap(), 2000);
    }

    #[test]
    fn refuses_what_is_none() {
        for text in ["", "Mi", "1.2.3", "ten", "1 Gi", "1GB", "0x10"] {
            assert!(Quantity::from(text).millis().is_err(), "{text}");
        }
    }

    #[test]
    fn reads_numbers_and_text() {
        assert_eq!(serde_json::from_str::<Quantity>("2").unwrap(), Quantity::from("2"));
        assert_eq!(serde_json::from_str::<Quantity>("\"64Mi\"").unwrap(), Quantity::from("64Mi"));
        assert!(serde_json::from_str::<Quantity>("{}").is_err());
    }
}
