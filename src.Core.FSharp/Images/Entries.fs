namespace Hybrid

open System

/// What a set of named shapes says about a model: used to infer a configuration from a file's entries.
module internal Entries =

    /// Reads named shapes and gathers what is wrong with them, so that everything is reported at once.
    type Reader(entries: (string * int64[]) seq) =
        let table = System.Collections.Generic.Dictionary<string, int64[]>()
        let faults = ResizeArray<string>()

        do
            for name, shape in entries do
                table[name] <- shape

        /// Whether any entry's name starts so.
        member _.Any(prefix: string) : bool =
            table.Keys |> Seq.exists (fun name -> name.StartsWith(prefix, StringComparison.Ordinal))

        /// How many numbers from `first` on have an entry under their prefix, without a gap. One missing entry of a part that
        /// has others does not make the part disappear: it is then reported as missing.
        member this.Count(first: int, prefix: int -> string) : int =
            Seq.initInfinite (fun i -> prefix (first + i)) |> Seq.takeWhile this.Any |> Seq.length

        /// The shape of an entry with so many dimensions; zeros, and a fault, where it is not so.
        member _.Shape(name: string, dimensions: int) : int64[] =
            match table.TryGetValue name with
            | true, shape when shape.Length = dimensions -> shape
            | true, shape ->
                faults.Add $"entry '{name}' has shape {Shape.show shape}; it must have {dimensions} dimensions"
                Array.zeroCreate dimensions
            | false, _ ->
                faults.Add $"entry '{name}' is missing"
                Array.zeroCreate dimensions

        member _.Fault(text: string) : unit = faults.Add text

        /// The configuration, if no fault was found and every parameter that it asks for is there in its shape.
        member reader.Conclude(config: 'config, parameters: 'config -> ParameterSpec list) : Result<'config, string> =
            reader.ConcludeWhole(config, parameters, (fun _ -> false))

        /// The same, where moreover every entry that belongs to the model must be one of the parameters.
        member _.ConcludeWhole
            (config: 'config, parameters: 'config -> ParameterSpec list, belongs: string -> bool)
            : Result<'config, string> =
            if faults.Count = 0 then
                let known = parameters config |> List.map _.Name |> set

                for name in table.Keys do
                    if belongs name && not (known.Contains name) then
                        faults.Add $"entry '{name}', of shape {Shape.show table[name]}, has no place in a model of these sizes"

                for parameter in parameters config do
                    let wanted = Array.ofList parameter.Shape

                    match table.TryGetValue parameter.Name with
                    | true, shape when shape = wanted -> ()
                    | true, shape ->
                        faults.Add
                            $"entry '{parameter.Name}' has shape {Shape.show shape}; beside the others it must have {Shape.show wanted}"
                    | false, _ -> faults.Add $"entry '{parameter.Name}', of shape {Shape.show wanted}, is missing"

            if faults.Count = 0 then Ok config else Error(String.Join("; ", faults) + ".")
