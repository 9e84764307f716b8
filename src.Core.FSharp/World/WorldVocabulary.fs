/// The closed vocabulary of World: every word of its captions and its text, one id each. Punctuation marks are words of their
/// own, set apart by spaces, so that decoding the ids of a text of World gives the text back.
module Hybrid.WorldVocabulary

open System
open System.Collections.Generic
open System.IO
open System.Text
open System.Text.Encodings.Web
open System.Text.Json

let private split (text: string) = text.Split(Array.empty<char>, StringSplitOptions.RemoveEmptyEntries)

/// Stands for every word that is not in the vocabulary; id 0.
let unknown: string = "<unk>"

/// Ends a document; id 1.
let endOfText: string = "<end>"

/// Colours of objects in scenes and of things in the text.
let colours: string[] = split "red orange yellow green blue purple pink brown black white"

/// Names of the invented countries.
let countries: string[] =
    split "zorland belmar quintia morvia talune ostrel velden karpia drusia fennor galdor hestel ilmor jovenia luran nordel"

/// Names of the invented towns; each is the capital of one country.
let towns: string[] =
    split "balun tarsk mivo pelda rokton suvale wenby cardo dunmor elsby farvel grano hulst imber joska lomond"

/// Names of the people about whom the text states facts.
let people: string[] =
    split
        "mira arvo belka cyrus dagny emeka freya gunnar hilda ivar jorun kenji lotte milan nadia orson petra quinn ragna silvan talia ulrik vanja wanda"

/// Names of the invented animals.
let creatures: string[] =
    split "blim dorvo fush glonk hopal jib krell lumo mogra nilp porg quib rafu snark torb wumple"

/// Names of the people of the stories; no fact is stated about them.
let characters: string[] = split "tom ana ben eva leo nina max rosa sam ida paul ruth"

/// Things that the people of the stories have.
let objects: string[] = split "ball hat cup book key boat lamp coat spoon drum bag pen bell"

/// Places of the stories.
let places: string[] = split "garden kitchen park school shop barn market station"

/// The invented words of each language, in the order of `translated`.
let languages: string[][] =
    [|
        split
            "tavo kilo dema runo pask omri velt jusa nabi hoto firu selk gamo ludi barn ekka wisu torm pilo cand ressa mudo yark zeni"
        split
            "shen quor blan thip wix frol drum kesh vang loom prit skel trov glin spad crum flet grun hask jalp knob plok stib twen"
        split
            "aeli ioma ueno oalu eiri auna iela oiso uami eoto aiba ouka eura iado uoli aesa oima euna iavo aulo oeri uila eamo ioru"
    |]

/// The English words that have a translation in each language.
let translated: string[] =
    split "red blue green yellow one two three four dog cat bird horse sun sea grass snow tree rose ball hat cup book key boat"

let private captionWords =
    split
        "circle square triangle diamond ring cross star heart circles squares triangles diamonds rings crosses stars hearts small large huge gray background sand night a an the in on at of to and there is are here picture shows this you can see above below under inside around left right top bottom center corner over ,"

let private textWords =
    [|
        split ". : ; = ? question answer what which where is does has with not then now still if and it its they for by than"
        split "capital flag crop grow wheat rice corn apples grapes tea cotton potatoes"
        split
            "job works as called baker doctor teacher farmer painter singer sailor tailor home lives play plays played piano flute harp violin horn guitar trumpet cello pet keeps rabbit duck goat mouse"
        split
            "eat eats feed seeds worms leaves nuts honey berries roots moss found forest river desert cave lake hills swamp valley"
        split
            "colour number animal plant thing opposite hot cold day big old young fast slow up down open closed wet dry rich poor happy sad coal carrot plum pig bear coin"
        split "goes gives takes finds looks say"
        split "draws paints shape paper bigger four three five sides points arms hole round"
    |]
    |> Array.concat

/// All words; a word's id is its index.
let words: string[] =
    [|
        [| unknown; endOfText |]
        colours
        captionWords
        translated
        textWords
        objects
        places
        countries
        towns
        people
        creatures
        characters
        Array.concat languages
    |]
    |> Array.concat
    |> Array.distinct

let private ids = words |> Array.mapi (fun id word -> KeyValuePair(word, id)) |> Dictionary

/// The id of a word; 0 for a word that is not in the vocabulary.
let id (word: string) : int =
    match ids.TryGetValue word with
    | true, id -> id
    | _ -> 0

/// The id that ends a document.
let endId: int = id endOfText

/// The ids of the words of a text, which white space separates. Nothing is added.
let encode (text: string) : int[] = split text |> Array.map id

/// The words of ids with single spaces between them. Errors: InputException for an id outside the vocabulary.
let decode (ids: int seq) : string =
    let word id =
        if id >= 0 && id < words.Length then
            words[id]
        else
            raise (InputException $"World's vocabulary has no id {id}; its ids are 0 to {words.Length - 1}.")

    String.Join(" ", ids |> Seq.map word)

/// The vocabulary as a Hugging Face tokenizer.json: model WordLevel, white space as the only separator, and the same ids.
let tokenizerJson: string =
    use stream = new MemoryStream()

    let options = JsonWriterOptions(Indented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping)

    use json = new Utf8JsonWriter(stream, options)

    let object (write: unit -> unit) =
        json.WriteStartObject()
        write ()
        json.WriteEndObject()

    object (fun () ->
        json.WriteString("version", "1.0")
        json.WriteNull "truncation"
        json.WriteNull "padding"
        json.WriteStartArray "added_tokens"

        object (fun () ->
            json.WriteNumber("id", endId)
            json.WriteString("content", endOfText)

            for flag in [ "single_word"; "lstrip"; "rstrip"; "normalized" ] do
                json.WriteBoolean(flag, false)

            json.WriteBoolean("special", true))

        json.WriteEndArray()
        json.WriteNull "normalizer"
        json.WritePropertyName "pre_tokenizer"
        object (fun () -> json.WriteString("type", "WhitespaceSplit"))
        json.WriteNull "post_processor"
        json.WriteNull "decoder"
        json.WritePropertyName "model"

        object (fun () ->
            json.WriteString("type", "WordLevel")
            json.WritePropertyName "vocab"
            object (fun () -> words |> Array.iteri (fun id word -> json.WriteNumber(word, id)))
            json.WriteString("unk_token", unknown)))

    json.Flush()
    Encoding.UTF8.GetString(stream.GetBuffer(), 0, int stream.Length)
