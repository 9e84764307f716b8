module Hybrid.Api
