module Hybrid.Tests.Main

open Expecto

[<EntryPoint>]
let main arguments =
    runTestsWithCLIArgs [] arguments (testList "all" [ CommandLineTests.tests; ReportTests.tests; ProgressTests.tests; HostTests.tests; GoldenTests.tests ])
