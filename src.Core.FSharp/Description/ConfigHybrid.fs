/// Hybrid's own JSON form of a model's description.
namespace Hybrid

open System.Text.Json.Nodes

/// Reading and writing a model's description in Hybrid's own JSON.
module HybridConfig =

    let private normName =
        function
        | LayerNorm -> "layer_norm"
        | GainLayerNorm -> "gain_only_layer_norm"
        | PlainLayerNorm -> "plain_layer_norm"
        | RmsNorm -> "rms_norm"

    let private positionName =
        function
        | Rotary -> "rotary"
        | InterleavedRotary -> "interleaved_rotary"
        | HeadRotary -> "head_rotary"
        | NoPosition -> "none"
        | LearnedPosition -> "learned"

    let private feedForwardName =
        function
        | SwiGlu -> "swiglu"
        | GeGlu -> "geglu"
        | Gelu -> "gelu"
        | GeluTanh -> "gelu_tanh"
        | Relu -> "relu"

    let private named (name: 'a -> string) (cases: 'a list) = cases |> List.map (fun case -> name case, case)

    let private scalingToJson (scaling: RotaryScaling) : JsonNode | null =
        let json (kind: string) (fields: (string * JsonNode | null) list) =
            let json = JsonObject()
            json.Add("kind", JsonValue.Create kind)

            for name, value in fields do
                json.Add(name, value)

            json :> (JsonNode | null)

        let number (name: string) (value: float) = name, (JsonValue.Create value :> (JsonNode | null))
        let count (name: string) (value: int) = name, (JsonValue.Create value :> (JsonNode | null))

        match scaling with
        | NoScaling -> null
        | LinearScaling factor -> json "linear" [ number "factor" factor ]
        | DynamicScaling factor -> json "dynamic" [ number "factor" factor ]
        | Llama3Scaling s ->
            json
                "llama3"
                [
                    number "factor" s.Factor
                    number "lowFrequencyFactor" s.LowFrequencyFactor
                    number "highFrequencyFactor" s.HighFrequencyFactor
                    count "originalPositions" s.OriginalPositions
                ]
        | YarnScaling s ->
            json
                "yarn"
                [
                    number "factor" s.Factor
                    count "originalPositions" s.OriginalPositions
                    number "betaFast" s.BetaFast
                    number "betaSlow" s.BetaSlow
                    number "attentionFactor" s.AttentionFactor
                    "truncate", (JsonValue.Create s.Truncate :> (JsonNode | null))
                ]

    let private scalingOfJson (parent: JsonFields) : RotaryScaling =
        parent.Ignore [ "rotaryScaling" ]

        if not (parent.Has "rotaryScaling") then
            NoScaling
        else
            let json = parent.Object "rotaryScaling"
            let factor () = json.Float("factor", 1e-30, 1e30)
            let original () = json.Int("originalPositions", 1, 1 <<< 28)

            let scaling =
                match json.Choice("kind", [ for kind in [ "linear"; "dynamic"; "llama3"; "yarn" ] -> kind, kind ]) with
                | "linear" -> LinearScaling(factor ())
                | "dynamic" -> DynamicScaling(factor ())
                | "llama3" ->
                    Llama3Scaling
                        {
                            Factor = factor ()
                            LowFrequencyFactor = json.Float("lowFrequencyFactor", 1e-30, 1e30)
                            HighFrequencyFactor = json.Float("highFrequencyFactor", 1e-30, 1e30)
                            OriginalPositions = original ()
                        }
                | _ ->
                    YarnScaling
                        {
                            Factor = factor ()
                            OriginalPositions = original ()
                            BetaFast = json.Float("betaFast", 1e-30, 1e30)
                            BetaSlow = json.Float("betaSlow", 1e-30, 1e30)
                            AttentionFactor = json.Float("attentionFactor", 0.0, 1e30)
                            Truncate = json.Bool "truncate"
                        }

            json.Finish()
            scaling

    /// The form: every field by its own name. `read` reads it back.
    let write (config: ModelConfig) : JsonObject =
        let json = JsonObject()
        let add (name: string) (value: 'a) = json.Add(name, JsonValue.Create<'a> value)
        add "width" config.Width
        add "layers" config.Layers
        add "heads" config.Heads
        add "keyValueHeads" config.KeyValueHeads
        add "headWidth" config.HeadWidth
        add "feedForwardWidth" config.FeedForwardWidth
        add "rows" config.Rows
        let sizes = config.ExtendedAt |> List.map (fun size -> JsonValue.Create size :> (JsonNode | null))
        json.Add("extendedAt", JsonArray(List.toArray sizes))
        add "positions" config.Positions
        add "norm" (normName config.Norm)
        add "normEpsilon" config.NormEpsilon
        add "qkNorm" config.QkNorm
        add "postEmbedNorm" config.PostEmbedNorm
        add "position" (positionName config.Position)
        add "rotaryBase" config.RotaryBase
        add "rotaryWidth" config.RotaryWidth
        json.Add("rotaryScaling", scalingToJson config.RotaryScaling)
        add "window" config.Window
        add "feedForward" (feedForwardName config.FeedForward)
        add "parallelResidual" config.ParallelResidual
        add "qkvBias" config.QkvBias
        add "outBias" config.OutBias
        add "feedForwardBias" config.FeedForwardBias
        add "tied" config.Tied
        json

    /// Reads the object that `write` makes.
    let read (json: JsonFields) : ModelConfig =
        let width = json.Int("width", 1, ModelConfig.maximum)
        let headWidth = json.Int("headWidth", 1, ModelConfig.maximum)

        let config =
            {
                Width = width
                Layers = json.Int("layers", 1, 1024)
                Heads = json.Int("heads", 1, 1024)
                KeyValueHeads = json.Int("keyValueHeads", 1, 1024)
                HeadWidth = headWidth
                FeedForwardWidth = json.Int("feedForwardWidth", 1, ModelConfig.maximum)
                Rows = json.Int("rows", 1, 1 <<< 28)
                ExtendedAt = json.Ints("extendedAt", 1, 1 <<< 28)
                Positions = json.Int("positions", 1, 1 <<< 28)
                Norm = json.Choice("norm", named normName [ LayerNorm; GainLayerNorm; PlainLayerNorm; RmsNorm ])
                NormEpsilon = json.Float("normEpsilon", 0.0, 1.0)
                QkNorm = json.Bool "qkNorm"
                PostEmbedNorm = json.Bool "postEmbedNorm"
                Position =
                    json.Choice(
                        "position",
                        named positionName [ Rotary; InterleavedRotary; HeadRotary; NoPosition; LearnedPosition ]
                    )
                RotaryBase = json.Float("rotaryBase", 1.0, 1e12)
                // Checkpoints of earlier versions lack the keys that have defaults here.
                RotaryWidth = json.Int("rotaryWidth", 0, ModelConfig.maximum, headWidth)
                RotaryScaling = scalingOfJson json
                Window = json.Int("window", 0, 1 <<< 28, 0)
                FeedForward = json.Choice("feedForward", named feedForwardName [ SwiGlu; GeGlu; Gelu; GeluTanh; Relu ])
                ParallelResidual = json.Bool("parallelResidual", false)
                QkvBias = json.Bool("qkvBias", false)
                OutBias = json.Bool("outBias", false)
                FeedForwardBias = json.Bool("feedForwardBias", false)
                Tied = json.Bool "tied"
            }

        json.Finish()
        ModelConfig.checkedAt json "width" config
