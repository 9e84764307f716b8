/// How `align` is spelled becomes a plain command.
module internal Hybrid.AlignTable

open Argu
open Hybrid.Arguments
open Hybrid.ArgumentValues

/// The command that was given.
let command (given: ParseResults<AlignArguments>) : ICommand =
    let beta1, beta2 = given.GetResult(<@ AlignArguments.Betas @>, defaultValue = (0.9, 0.98))

    {
        AlignCommand.Model =
            match given.TryGetResult <@ AlignArguments.Model @> with
            | None -> null
            | Some path ->
                {
                    Path = path
                    Config = given.TryGetResult <@ AlignArguments.Model_Config @> |> Option.toObj
                    TextRows = given.TryGetResult <@ AlignArguments.Text_Rows @> |> Option.toNullable
                    ImageCodes = given.TryGetResult <@ AlignArguments.Image_Codes @> |> Option.toNullable
                }
        Tokens = given.TryGetResult <@ AlignArguments.Tokens @> |> Option.toObj
        Codes = given.TryGetResult <@ AlignArguments.Codes @> |> Option.toObj
        TextIds = given.TryGetResult <@ AlignArguments.Text_Ids @> |> Option.toObj
        TextEmbedding = given.TryGetResult <@ AlignArguments.Text_Embedding @> |> Option.toObj
        ImageCodes = given.TryGetResult <@ AlignArguments.Image_Codes @> |> Option.toNullable
        Initial = given.TryGetResult <@ AlignArguments.Initial @> |> Option.toObj
        Tokenizer = given.TryGetResult <@ AlignArguments.Tokenizer @> |> Option.toObj
        Batch = given.TryGetResult <@ AlignArguments.Batch @> |> Option.toNullable
        Steps = given.GetResult(<@ AlignArguments.Steps @>, defaultValue = 1000)
        LearningRate = given.GetResult(<@ AlignArguments.Learning_Rate @>, defaultValue = 0.01)
        Betas = readOnly [ beta1; beta2 ]
        Epsilon = given.GetResult(<@ AlignArguments.Epsilon @>, defaultValue = 1e-6)
        Shuffled = given.GetResult(<@ AlignArguments.Order @>, defaultValue = "shuffled") = "shuffled"
        Seed = given.GetResult(<@ AlignArguments.Seed @>, defaultValue = 0L)
        HeldOut = given.GetResult(<@ AlignArguments.Held_Out @>, defaultValue = 0)
        Controls = given.GetResults <@ AlignArguments.Control @> |> List.distinct |> readOnly
        Nearest = given.GetResult(<@ AlignArguments.Nearest @>, defaultValue = 5)
        NearestOf = given.TryGetResult <@ AlignArguments.Nearest_Of @> |> idsOrNull
        Words = given.GetResults <@ AlignArguments.Codes_Of_Word @> |> List.map unprotect |> readOnly
        Out = given.GetResult <@ AlignArguments.Out @>
        TensorBoard = given.Contains <@ AlignArguments.TensorBoard @>
        Json = given.Contains <@ AlignArguments.Json @>
    }
