/// Writing of JSON, as `Json` reads it.
namespace Hybrid

open System.Text.Json
open System.Text.Json.Nodes

module JsonForm =

    /// A value as JSON.
    let value (v: 'a) : JsonNode | null = JsonValue.Create<'a> v

    /// A value as JSON; null where there is none.
    let orNull (v: 'a option) : JsonNode | null =
        match v with
        | Some v -> value v
        | None -> null

    /// A list of values.
    let list (items: 'a seq) : JsonNode | null = JsonArray(items |> Seq.map value |> Seq.toArray)

    /// An object of fields, in this order.
    let object (fields: (string * (JsonNode | null)) list) : JsonObject =
        let json = JsonObject()

        for name, field in fields do
            json.Add(name, field)

        json

    /// The name of a choice that is read by its name.
    let nameIn (choices: (string * 'a) list) (choice: 'a) : string =
        choices |> List.find (fun (_, other) -> other = choice) |> fst

    /// A line for each value.
    let indented (json: JsonObject) : string = json.ToJsonString(JsonSerializerOptions(WriteIndented = true))
